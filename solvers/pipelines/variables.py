"""The variables of a pipeline's loop for given conditioning, computed once and kept."""

import inspect
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from ..kinds import described
from ..notebook import form
from .compiled import Local, PipelineCode, code_of
from .identity import glance, identity, known_by, passing
from .opened import OpenedLoop, known, opened
from .prompts import check_no_text
from .rebound import OnceComputed
from .row_scales import RowScales
from .turned_by import (
    alike,
    left_aside,
    probes,
    read_by_turns,
    rest_of,
    same_turns,
    tensors_asking,
    unwrapped_form,
)

PLANNED = {
    "num_inference_steps", "timesteps", "sigmas", "mu", "eta", "strength", "latents", "denoising_start",
    "denoising_end", "output_type", "return_dict", "callback", "callback_steps", "callback_on_step_end",
}  # fmt: skip
KEPT = 4  # openings: guidance scales, prompts and batches that take turns


@dataclass(frozen=True, eq=False)
class _Kept:
    """One opening, and what must live as long as it is known by its memory.

    Attributes:
        aside: what is said of conditioning that the turns do not compute with.
    """

    loop: OpenedLoop
    once: OnceComputed | None
    holds: Any
    aside: str = ""


class LoopVariables:
    """Opens the loop for each conditioning and batch, and remembers the last few: what does not depend on the state is
    not computed again at each network call. Conditioning is known by its memory, its count of writes in place, and some
    of its numbers.

    Args:
        arguments: of the pipeline's call; conditioning takes their place by name.
        shared: those of `arguments` that may be one for all samples.
        made: those that stand for prompts, which a caller hands on whether they are used or not.

    Attributes:
        worked_on: whether the loop works on its latents after each step, with its arguments.
    """

    def __init__(
        self,
        code: PipelineCode,
        pipe: Any,
        arguments: Mapping[str, Any],
        shared: Sequence[str],
        made: Iterable[str] = (),
    ) -> None:
        self.code, self.pipe, self.arguments, self.shared = code, pipe, dict(arguments), tuple(shared)
        self.made, self.worked_on = frozenset(made), False
        self._passed: set[Any] = set()
        self._given = [leaf for leaf in tree_leaves(self.arguments) if isinstance(leaf, Tensor)]
        self._kept: OrderedDict[Any, tuple[_Kept, tuple[Tensor, ...]]] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "code": None, "_kept": OrderedDict(), "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, code=code_of(type(state["pipe"])), _lock=threading.Lock())

    def opened(self, cond: Any, batch: int | None = None) -> OpenedLoop:
        """The loop for `cond`, without gradients."""
        with torch.no_grad():
            return opened(self.code, self.pipe, self._arguments(cond, batch), batch)

    def started(self, latents: Tensor) -> Tensor:
        """The state that the loop begins with of given latents."""
        if "latents" not in inspect.signature(self.code.opening).parameters:
            return latents
        batch = len(latents)
        given = {**self._arguments(None, batch), "latents": latents}
        return opened(self.code, self.pipe, given, batch).state

    def of(self, cond: Any, batch: int, turning: bool = False) -> tuple[OpenedLoop, Local]:
        """The loop, and its variables as functions of the tensors in `cond`.

        Args:
            turning: for a turn: raises ValueError where turns compute nothing with some of `cond`.
        """
        cond = self._with_given(cond)
        tensors = [each for each in tree_leaves(cond) if isinstance(each, Tensor)]
        wanted = torch.is_grad_enabled() and any(each.requires_grad for each in tensors)
        if any(passing(each) for each in tensors):
            loop = opened(self.code, self.pipe, self._arguments(cond, batch), batch)
            if turning:
                self._check_passing(cond, batch)
            return loop, loop.variables
        key = (batch, wanted, *self._setting(), *identity(cond), *map(known_by, self._given))
        with self._lock:
            glances = [glance(each) for each in (*tensors, *self._given)]
            kept, seen = self._kept.get(key, (None, ()))
            if kept is None or not all(map(torch.equal, glances, seen)):
                kept = self._open(cond, batch, wanted)
                self._kept[key] = kept, tuple(each.clone() for each in glances)
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
        if turning and kept.aside:
            raise ValueError(kept.aside)
        if kept.once is None:
            return kept.loop, kept.loop.variables
        grads = [each for each in tensors if each.requires_grad]
        return kept.loop, _replaced(self.code, kept.loop.variables, kept.once.at(grads))

    def _open(self, cond: Any, batch: int, wanted: bool) -> _Kept:
        with torch._C._DisableFuncTorch():  # what is kept is no part of a transform
            return self._differentiably(cond, batch) if wanted else self._plainly(cond, batch)

    def _plainly(self, cond: Any, batch: int) -> _Kept:
        held = tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, cond)
        loop = self.opened(cond, batch)
        return _Kept(
            loop, None, held, self._aside(loop, cond, batch)
        )  # meanwhile that memory is no one else's

    def _differentiably(self, cond: Any, batch: int) -> _Kept:
        inputs: list[Tensor] = []

        def own(leaf: Any) -> Any:
            if not (isinstance(leaf, Tensor) and leaf.requires_grad):
                return leaf
            inputs.append(leaf.detach().requires_grad_())
            return inputs[-1]

        mine = tree_map(own, cond)
        # hooks of a strategy that counts what a call saves are not for what several calls share
        with torch.enable_grad(), saved_tensors_hooks(_same, _same):
            loop = opened(self.code, self.pipe, self._arguments(mine, batch), batch)
        outputs = tuple(_depending(self.code, loop.variables))
        self._check_reached(cond, inputs, outputs)
        aside = self._aside(loop, cond, batch, inputs)

        code, pipe, arguments, shared = self.code, self.pipe, self.arguments, self.shared

        def again(tensors: Sequence[Tensor]) -> Sequence[Tensor]:  # holds nothing that holds what is kept
            given = iter(tensors)
            other = tree_map(
                lambda leaf: next(given) if isinstance(leaf, Tensor) and leaf.requires_grad else leaf, mine
            )
            merged = _merged(arguments, other, shared, batch)
            return tuple(_depending(code, opened(code, pipe, merged, batch).variables))

        return _Kept(loop, OnceComputed(tuple(inputs), outputs, again), cond, aside)

    def _arguments(self, cond: Any, batch: int | None) -> dict[str, Any]:
        """The pipeline's arguments with `cond` in their place."""
        return _merged(self.arguments, self._checked({} if cond is None else cond), self.shared, batch)

    def _with_given(self, cond: Any) -> Any:
        """`cond` and what else is to be differentiated: arguments of `from_diffusers` that require grad."""
        recording = torch.is_grad_enabled() and any(leaf.requires_grad for leaf in self._given)
        if not recording or not isinstance(cond, Mapping | None):
            return cond
        asking = {
            name: value
            for name, value in self.arguments.items()
            if any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(value))
        }
        return {**asking, **(cond or {})}

    def _setting(self) -> tuple[Any, ...]:
        """What an opening depends upon besides its arguments: where the networks are, in which type, and autocast."""
        parts = (getattr(self.pipe, name, None) for name in sorted(self.code.source.parts))
        first = [next(each.parameters(), None) for each in parts if isinstance(each, nn.Module)]
        where = [(each.dtype, each.device) for each in first if each is not None]
        return torch.is_autocast_enabled("cuda"), torch.is_autocast_enabled("cpu"), *where

    def _checked(self, cond: Any) -> Mapping[str, Any]:
        if not isinstance(cond, Mapping):
            raise TypeError(
                f"cond: got {described(cond)}, expected a dict of arguments of {self.code.source.name}'s call; pass "
                'cond={"prompt_embeds": ...}'
            )
        known(self.code, cond)
        check_no_text(cond, self.arguments)
        planned = sorted(cond.keys() & PLANNED)
        if planned:
            raise ValueError(
                f"cond: got {planned}, expected conditioning: these make the plan and its start; pass them to "
                "from_diffusers"
            )
        fixed = cond.keys() - {*self.shared, "guidance_scale", "generator"} if self.worked_on else set()
        if fixed:
            raise ValueError(
                f"cond: got {sorted(fixed)}, expected prompts alone: {self.code.source.name} works on its latents "
                "after each step, by what from_diffusers was given; pass them there"
            )
        return cond

    def _check_reached(
        self, cond: Mapping[str, Any], inputs: list[Tensor], outputs: tuple[Tensor, ...]
    ) -> None:
        lost = _unreached(cond, inputs, outputs)
        if lost:
            raise ValueError(
                f"cond: got {sorted(lost)} that require grad, and {self.code.source.name} makes no use of them that "
                "could be differentiated with these arguments (it makes numbers of them, or leaves them aside); pass "
                "them detached"
            )

    def _aside(
        self, loop: OpenedLoop, cond: Mapping[str, Any] | None, batch: int, inputs: Sequence[Tensor] = ()
    ) -> str:
        """What is to be said of those in `cond` that the turns do not compute with; nothing where they do.

        Args:
            inputs: the tensors of `loop` that stand for those of `cond` that require grad.

        Cost: an opening for each name that stands for no prompt and has another value than from_diffusers was given; a
        few more for a number.
        """
        if cond is None:
            return ""
        asking = _asking(cond) if inputs else []
        lost = _unreached(cond, inputs, tensors_asking(read_by_turns(loop))) if inputs else set()
        for name, value in cond.items():
            if name in asking:
                if name in lost:
                    starts = name not in _unreached(cond, inputs, [loop.state])
                    return left_aside(self.code, name, value, starts, value is self._given_as(name))
            elif name not in self.made and not alike(value, self._given_as(name)):
                asked = [rest_of(cond, name), *({**cond, name: each} for each in probes(value))]
                found = [self._with(each, batch) for each in asked]
                if found[0] is None or any(each and not same_turns(loop, each) for each in found):
                    continue
                starts = any(each and not alike(loop.state, each.state) for each in found)
                return left_aside(self.code, name, value, starts)
        return ""

    def _given_as(self, name: str) -> Any:
        """An argument as from_diffusers was given it."""
        default = inspect.signature(self.code.opening).parameters[name].default
        return self.arguments.get(name, default)

    def _with(self, cond: Mapping[str, Any], batch: int) -> OpenedLoop | None:
        """The loop; None where the pipeline refuses that."""
        try:
            return self.opened(cond, batch)
        except (ValueError, TypeError, RuntimeError, AttributeError, LookupError):
            return None

    def _check_passing(self, cond: Mapping[str, Any], batch: int) -> None:
        """As for others, of plain tensors in the place of those that a transform has wrapped; once for each form."""
        with torch._C._DisableFuncTorch():
            plain = tree_map(unwrapped_form, cond)
            told = (batch, *((name, str(tree_map(form, value))) for name, value in plain.items()))
            if told not in self._passed:
                aside = self._aside(self.opened(plain, batch), plain, batch)
                if aside:
                    raise ValueError(aside)
                self._passed.add(told)


def _asking(cond: Mapping[str, Any]) -> list[str]:
    """Its names, one for each tensor that requires grad."""
    return [
        name for name, value in cond.items()
        for leaf in tree_leaves(value) if isinstance(leaf, Tensor) and leaf.requires_grad
    ]  # fmt: skip


def _unreached(cond: Mapping[str, Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> set[str]:
    """The names in `cond` of those inputs that no output depends on."""
    wanted = [each.sum() for each in outputs if each.requires_grad]
    none = [None] * len(inputs)
    found = torch.autograd.grad(wanted, inputs, retain_graph=True, allow_unused=True) if wanted else none
    return {name for name, g in zip(_asking(cond), found, strict=True) if g is None}


def _merged(
    arguments: Mapping[str, Any], cond: Mapping[str, Any], shared: Sequence[str], batch: int | None
) -> dict[str, Any]:
    """The arguments with `cond` in their place, and one row of each prompt for each sample."""
    found = {**arguments, **cond}
    rows = {name: found[name] for name in shared if isinstance(found.get(name), Tensor)}
    most = max((len(value) for value in rows.values()), default=1)
    wanted = batch if batch is not None and not batch % most else most
    for name, value in rows.items():
        if (
            wanted % len(value) == 0 and len(value) != wanted
        ):  # one negative prompt for all, or several samples each
            found[name] = value.repeat_interleave(wanted // len(value), 0)
    return found


def _same(value: Tensor) -> Tensor:
    return value


def _places(code: PipelineCode, variables: Local) -> tuple[dict[str, Any], dict[str, Any]]:
    """The variables that are read in and after the loop; the tensors that the call set on its copy of the pipeline."""
    parts = (code.turn, code.closing, *(() if code.rest is None else (code.rest,)))
    names = dict.fromkeys(
        name for part in parts for name in code.reads[part] if name in variables and name != "self"
    )
    read = {name: variables[name] for name in names}
    own = vars(variables["self"]).items()
    return read, {name: value for name, value in own if isinstance(value, Tensor | RowScales)}


def _depending(code: PipelineCode, variables: Local) -> list[Tensor]:
    """The tensors among them that depend on conditioning."""
    leaves = tree_leaves(_places(code, variables))
    return [each for each in leaves if isinstance(each, Tensor) and each.requires_grad]


def _replaced(code: PipelineCode, variables: Local, outputs: Sequence[Tensor]) -> Local:
    """The variables with `outputs` in the place of `_depending`."""
    leaves, form = tree_flatten(_places(code, variables))
    given = iter(outputs)
    put = [next(given) if isinstance(each, Tensor) and each.requires_grad else each for each in leaves]
    read, own = tree_unflatten(put, form)
    found = {**variables, **read}
    if own:
        pipe = copy(variables["self"])
        vars(pipe).update(own)
        found["self"] = pipe
    return found
