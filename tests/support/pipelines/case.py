"""One tiny pipeline: how it is built and called, and its own loop on given latents as the reference."""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor

BATCH = 2  # samples of every call
SEED = 0  # of the generator that every reference call is given


@contextmanager
def single() -> Iterator[None]:
    """As users have it: float32 by default (the tests run in float64), and a local seed."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(SEED)
            yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def by_name(pipe: Any, latents: Tensor) -> Iterator[dict[str, Any]]:
    """The pipeline takes `latents`, and multiplies them by `init_noise_sigma`."""
    yield {"latents": latents}


@contextmanager
def as_draw(pipe: Any, latents: Tensor) -> Iterator[dict[str, Any]]:
    """The pipeline takes no latents: the first tensor that its module draws is `latents`."""
    with mock.patch(f"{type(pipe).__module__}.randn_tensor", lambda *shape, **how: latents):
        yield {}


@contextmanager
def as_noised(pipe: Any, latents: Tensor) -> Iterator[dict[str, Any]]:
    """The pipeline makes its start of an image: `latents` is what `add_noise` or `scale_noise` returns."""
    name = "scale_noise" if hasattr(pipe.scheduler, "scale_noise") else "add_noise"
    with mock.patch.object(pipe.scheduler, name, lambda *given, **named: latents):
        yield {}


@contextmanager
def as_image(pipe: Any, latents: Tensor) -> Iterator[dict[str, Any]]:
    """The pipeline goes on from the latents that another handed out, given as `image`."""
    yield {"image": latents}


def by_output_type(pipe: Any, loop: Callable[..., Any]) -> Tensor:
    """The pipeline hands its latents out."""
    found = loop(output_type="latent", return_dict=False)
    return found if isinstance(found, Tensor) else found[0]  # Stable Cascade's decoder returns no tuple


def by_last_step(pipe: Any, loop: Callable[..., Any]) -> Tensor:
    """The pipeline hands pictures out only (as numpy): the result of the scheduler's last step."""
    step, seen = pipe.scheduler.step, []

    class Finished(Exception): ...

    def watched(*given: Any, **named: Any) -> Any:
        answer = step(*given, **named)
        seen.append(answer[0])
        if len(seen) == len(pipe.scheduler.timesteps):
            raise Finished
        return answer

    with mock.patch.object(pipe.scheduler, "step", watched):
        try:
            loop()
        except Finished:
            return seen[-1]
    raise AssertionError("the loop ended before its scheduler did")


Enter = Callable[[Any, Tensor], AbstractContextManager[dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class PipelineCase:
    """A family of pipelines.

    Attributes:
        name: also the test's id.
        build: makes the pipeline, float32, CPU, of random weights that are the same every time, in eval mode.
        call: pipeline -> arguments of its call besides latents, generator, output_type and num_inference_steps.
        cond: which of those are float tensors (or lists of them) that a gradient is asked for.
        shape: of one sample's latents, as the pipeline takes them.
        steps: num_inference_steps.
        schedulers: three others that make sense here, pipeline -> scheduler.
        enter: how the latents get into the loop.
        leave: how they get out.
        after_step: whether the loop changes its latents after the scheduler's step.
        note: what is special.
    """

    name: str
    build: Callable[[], Any]
    call: Callable[[Any], dict[str, Any]]
    cond: tuple[str, ...]
    shape: tuple[int, ...]
    schedulers: tuple[Callable[[Any], Any], ...]
    steps: int = 4
    enter: Enter = by_name
    leave: Callable[[Any, Callable[..., Any]], Tensor] = by_output_type
    after_step: bool = False
    note: str = ""

    def __str__(self) -> str:
        return self.name


@functools.cache
def built(case: PipelineCase) -> Any:
    """The pipeline, once a session: whoever puts another scheduler in it puts the first one back."""
    with single():
        return case.build()


def start(pipe: Any, case: PipelineCase, batch: int = BATCH) -> Tensor:
    """Standard normal latents in the pipeline's dtype, the same every time."""
    drawn = torch.randn(batch, *case.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
    return drawn.to(pipe.dtype)


def leaves(case: PipelineCase, call: dict[str, Any]) -> list[Tensor]:
    """The tensors of a call that a gradient is asked for."""
    found = [call[name] for name in case.cond]
    return [one for given in found for one in (given if isinstance(given, list) else [given])]


def asking(case: PipelineCase, pipe: Any) -> dict[str, Any]:
    """The case's call with every tensor of `cond` a leaf that requires a gradient."""
    call = case.call(pipe)

    def leaf(given: Any) -> Any:
        if isinstance(given, list):
            return [leaf(one) for one in given]
        return given.detach().clone().requires_grad_()

    return call | {name: leaf(call[name]) for name in case.cond}


def reference(
    pipe: Any,
    case: PipelineCase,
    latents: Tensor,
    *,
    steps: int | None = None,
    grad: bool = False,
    **given: Any,
) -> Tensor:
    """The final latents of the pipeline's own loop, without the `no_grad` around it.

    Args:
        latents: the start, noise of unit size where `case.enter` is `by_name`.
        steps: num_inference_steps, those of the case where None.
        grad: whether autograd records.
        **given: arguments of the call in place of the case's.
    """
    loop = inspect.unwrap(type(pipe).__call__)
    call = {"num_inference_steps": steps or case.steps, "generator": torch.Generator().manual_seed(SEED)}
    call |= case.call(pipe) | given
    with single(), torch.set_grad_enabled(grad), case.enter(pipe, latents) as entered:
        return case.leave(pipe, functools.partial(loop, pipe, **(call | entered)))
