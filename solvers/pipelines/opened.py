"""A pipeline's loop, opened: what it has computed before its first network call."""

import copy
import functools
import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..schedulers.copying import copied
from .compiled import LABELS, Local, PipelineCode
from .lent import Changes, lent
from .row_scales import by_row, computing, in_loop
from .twins import viewed

# arguments that say how many samples come of one prompt, under the names that pipelines have for it
COPIES = (
    "num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt", "num_images", "batch_size"
)  # fmt: skip

DECODERS = ("vae", "movq", "vqgan", "vqvae")


@dataclass(frozen=True, eq=False)
class OpenedLoop:
    """The variables of a pipeline's `__call__` when its loop begins.

    Attributes:
        variables: by name; "self" is a copy of the pipeline that no one else holds.
        code: the loop's parts.
        timesteps: how `set_timesteps` was called, without its device; None where it was not.
        doubled: how often the state repeats the sample: a pipeline may carry both branches of guidance along.
        written: what the call wrote on the networks that its loop calls; they stand as they did before.
    """

    variables: Local
    code: PipelineCode
    timesteps: Mapping[str, Any] | None
    doubled: int
    written: Changes

    @property
    def pipe(self) -> Any:
        """The copy of the pipeline, with what the call has set on it."""
        return self.variables["self"]

    @property
    def labels(self) -> Tensor:
        """What the loop runs over."""
        return torch.as_tensor(self.variables[LABELS])

    @property
    def scheduler(self) -> Any:
        """The pipeline's scheduler, a copy, after `set_timesteps`."""
        return _named(self.code.source.scheduler, self.variables)

    @property
    def state(self) -> Tensor:
        """The pipeline's own starting latents (B, ...)."""
        name = self.code.source.state
        whole = self.variables.get(name)
        if not isinstance(whole, Tensor):
            raise ValueError(
                f"from_diffusers: got {self.code.source.name}, which steps `{name}`, a part of its latents, expected "
                "one state; wrap its network: plan_from_scheduler(pipe.scheduler, steps).denoiser(network)"
            )
        return whole[: len(whole) // self.doubled]

    def turned(self, pipe: Any, index: int, scale: Callable[..., Tensor]) -> Any:
        """A copy of `pipe` whose scheduler stands in the turn of that number, and scales what the network is shown by
        `scale`. Turns are played in any order, and a scheduler that looks for its place by itself would miscount.
        Its networks are twins of the user's with what the call wrote on them.
        """
        own = copy.copy(pipe)
        for name, written in self.written.items():
            vars(own)[name] = viewed(getattr(pipe, name), written, name)
        path = self.code.source.scheduler.removeprefix("self.")
        if path == self.code.source.scheduler:
            return own
        scheduler = copy.copy(getattr(pipe, path))
        vars(scheduler)["scale_model_input"] = scale
        if hasattr(scheduler, "_step_index"):
            scheduler._step_index = (getattr(scheduler, "begin_index", None) or 0) + index
        vars(own)[path] = scheduler
        return own

    def options(self) -> dict[str, Any]:
        """Further arguments that the loop gives to `scheduler.step`."""
        found = self.code.played(self.code.options, self.variables)
        return {name: value for name, value in found.items() if name not in ("generator", "return_dict")}


def fixed(code: PipelineCode, pipe: Any) -> Any:
    """The pipeline as it is now: its networks, and a scheduler that no one else holds."""
    own = copy.copy(pipe)
    path = code.source.scheduler.removeprefix("self.")
    if path in vars(pipe):
        vars(own)[path] = copied(vars(pipe)[path])
    return own


def opened(
    code: PipelineCode, pipe: Any, arguments: Mapping[str, Any], batch: int | None = None
) -> OpenedLoop:
    """Play what `pipe(**arguments)` does before its loop, on a copy.

    Args:
        batch: samples wanted; None: as many as the arguments say.

    Cost: no network call but those that the pipeline makes before its loop (text encoders where it is given prompts, a
    VAE's where it is given images).
    """
    accepts = inspect.signature(code.opening).parameters
    kind = "pt" if decoder_of(pipe) is None else "latent"
    given = {"output_type": kind} if "output_type" in accepts else {}
    given |= _by_row(code, arguments, batch)
    found = _played(code, pipe, given)
    if batch is None or len(found.state) == batch:
        return found
    own = len(found.state)
    name = copies_of(code)
    before: Any = (given.get(name, accepts[name].default) if name is not None else None) or 1
    if name is None or not isinstance(before, int) or batch * before % own:
        raise ValueError(
            f"{code.source.name}: got {batch} samples where its arguments say {own}, expected as many, or a multiple; "
            "pass embeddings of that many prompts in cond"
        )
    return _played(code, pipe, {**given, name: batch * before // own})


def encoded(code: PipelineCode, pipe: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What the pipeline makes of its prompts: those arguments of its call, by name, that it fills in itself."""
    if code.encoding is None:
        return {}
    name, accepts = copies_of(code), inspect.signature(code.opening).parameters
    given = _by_row(code, arguments, None) | (
        {} if name is None else {name: 1}
    )  # repeated when the loop opens
    with ordinary(), lent(pipe, code.source.parts), computing(given):
        found = code.encoding(_own(pipe), **given)
    return {
        name: value
        for name, value in found.items()
        if name in accepts and isinstance(value, Tensor) and value is not given.get(name)
    }


def _own(pipe: Any) -> Any:
    """A copy of the pipeline on which its call may set what it likes; the networks are the user's."""
    own = copy.copy(pipe)
    # not through the pipeline's own __setattr__, which would write into the configuration that both share
    vars(own)["_progress_bar_config"] = {"disable": True}
    vars(own)["maybe_free_model_hooks"] = _nothing
    for name in ("encode_prompt", "encode_image", "prepare_image", "prepare_latents"):
        method: Any = getattr(type(pipe), name, None)
        if hasattr(method, "__wrapped__"):  # in its own `no_grad`
            # a weak reference: a copy that held itself would keep the networks until the next collection
            vars(own)[name] = functools.partial(inspect.unwrap(method), weakref.proxy(own))
    return own


def _played(code: PipelineCode, pipe: Any, given: Mapping[str, Any]) -> OpenedLoop:
    own = _own(pipe)
    if "generator" in inspect.signature(code.opening).parameters:
        given = {**given, "generator": _fresh(given.get("generator"))}
    seen: dict[str, Any] = {}
    attribute = code.source.scheduler.removeprefix("self.")
    scheduler = None
    if attribute != code.source.scheduler:
        scheduler = copied(getattr(pipe, attribute))
        vars(own)[attribute] = scheduler
        if hasattr(scheduler, "set_timesteps"):
            vars(scheduler)["set_timesteps"] = _noted(scheduler.set_timesteps, seen)
    with torch.random.fork_rng(), ordinary(), lent(pipe, code.source.parts) as held:  # some draw globally
        torch.manual_seed(_seed(given.get("generator")))
        with computing(given):
            variables = code.opening(own, **given)
    if scheduler is not None:
        vars(scheduler).pop("set_timesteps", None)
    doubled = _doubled(variables, code.source.state)
    state = variables.get(code.source.state)
    if isinstance(state, Tensor):
        once = state[: len(state) // doubled]
        vars(own).update(in_loop(vars(own), once))
        variables = in_loop(variables, once)
    return OpenedLoop(variables, code, seen.get("call"), doubled, held.changes)


@contextmanager
def ordinary() -> Iterator[None]:
    """What is kept for later calls is no inference tensor, which could not be differentiated through."""
    recording = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(recording):
        yield


def _noted(function: Any, seen: dict[str, Any]) -> Any:
    """`set_timesteps` that writes down what it was called with."""
    signature = inspect.signature(function)

    def noted(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs).arguments
        more = bound.pop("kwargs", {})
        seen["call"] = {name: value for name, value in {**bound, **more}.items() if name != "device"}
        return function(*args, **kwargs)

    noted.__signature__ = signature  # type: ignore[attr-defined]  (pipelines look whether it takes sigmas)
    return noted


def _doubled(variables: Local, state: str) -> int:
    """How often the state repeats `latents`, where it is another variable."""
    whole, once = variables.get(state), variables.get("latents")
    if state == "latents" or not (isinstance(whole, Tensor) and isinstance(once, Tensor)):
        return 1
    times, over = divmod(len(whole), len(once))
    same = not over and whole.shape[1:] == once.shape[1:]
    return times if same and torch.equal(whole, once.repeat(times, *[1] * (once.ndim - 1))) else 1


def known(code: PipelineCode, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments. Raises TypeError for one that the pipeline's call does not name."""
    accepts = inspect.signature(code.opening).parameters
    unknown = arguments.keys() - accepts.keys()
    if unknown:
        raise TypeError(
            f"{code.source.name}: got {sorted(unknown)}, expected arguments of its call: "
            f"{', '.join(list(accepts)[1:])}; leave them out"
        )
    return dict(arguments)


def _by_row(code: PipelineCode, arguments: Mapping[str, Any], batch: int | None) -> dict[str, Any]:
    """The arguments, numbers that are given for each sample as such."""
    accepts = inspect.signature(code.opening).parameters
    given = known(code, arguments)
    return {name: by_row(name, accepts[name].default, value, batch) for name, value in given.items()}


def copies_of(code: PipelineCode) -> str | None:
    """The argument that says how many samples come of one prompt."""
    return next((name for name in COPIES if name in inspect.signature(code.opening).parameters), None)


def _named(path: str, variables: Local) -> Any:
    first, *rest = path.split(".")
    return functools.reduce(getattr, rest, variables[first])


def _fresh(generator: Any) -> Any:
    """A generator that draws the same numbers, so that the loop opens alike each time."""
    if isinstance(generator, list):
        return [_fresh(each) for each in generator]
    if generator is None:
        return torch.Generator().manual_seed(0)
    return torch.Generator(generator.device).set_state(generator.get_state())


def _seed(generator: Any) -> int:
    first = generator[0] if isinstance(generator, list) else generator
    return 0 if first is None else first.initial_seed()


def decoder_of(pipe: Any) -> str | None:
    """The name of what decodes the pipeline's latents; None where they are the pictures."""
    return next((name for name in DECODERS if isinstance(getattr(pipe, name, None), nn.Module)), None)


def _nothing(*args: Any, **kwargs: Any) -> None:
    """In place of what frees a pipeline's models after its call."""
