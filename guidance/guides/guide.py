"""Guide: a few optional hooks on one step of a plan, and how guides are put together."""

import enum
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from ...solvers import Model, Plan
from ...solvers.checked import Checked
from ..measurements.measurement import Measurement
from .context import Context


class Hook(enum.Enum):
    """Where a guide acts: each hook by the name of its method."""

    DATA = "data"
    VELOCITY = "velocity"
    STATE = "state"
    ACCEPT = "accept"
    REPEAT = "repeats"


class Guide(Checked, ABC):  # noqa: B024  (every hook is optional)
    """What is done to a run while it samples. A guide overrides the hooks it needs; it keeps no state of its
    own (`ctx.memory(self)` does), so that one guide serves any number of runs.

    `differentiates`: whether it calls `ctx.vjp` or `ctx.lookahead`, so that network calls are made with a
    graph.
    """

    differentiates: bool = False

    def data(self, ctx: Context, data: Tensor) -> Tensor:
        """D' (B, ...) in place of the data prediction D, at every network call with sigma > 0."""
        return data

    def velocity(self, ctx: Context, velocity: Tensor) -> Tensor:
        """u' in place of the velocity u = alpha' x_0 + sigma' eps, dashes on levels for d/dt; after `data`."""
        return velocity

    def state(self, ctx: Context, x: Tensor) -> Tensor:
        """x' in place of the state after the step; `ctx` is that of the call at the step's start. Multistep
        history, which holds predictions, is left as it is.
        """
        return x

    def accept(self, ctx: Context, x: Tensor) -> Tensor | None:
        """Ancestors (B,), integers, for the states proposed by the step, or None to go on: every register
        follows them.
        """
        return None

    def repeats(self, step: int, steps: int) -> int:
        """How often a step is taken; before each repetition the state is noised back to the step's start
        (time travel).
        """
        return 1

    def graph(self, step: int, steps: int) -> bool:
        """Whether the network calls of a step keep their graph for `ctx.vjp`."""
        return self.differentiates

    def repeated(self, count: int) -> "Guide":
        """The same guide for `count` copies of every sample, one after the other: the measurements among its
        fields, losses such as `measurement.nats` included, with their rows repeated. Override it where a
        guide holds other tensors (B, ...).
        """
        if not is_dataclass(self):
            return self
        before = {f.name: getattr(self, f.name) for f in fields(self)}
        after = {name: _repeated(value, count) for name, value in before.items()}
        changed = {name: value for name, value in after.items() if value is not before[name]}
        return replace(self, **changed) if changed else self

    def check(self, denoiser: Model, plan: Plan, x: Tensor) -> None:  # noqa: B027
        """Raise ValueError for what cannot work, before any network call."""

    def parts(self) -> tuple["Guide", ...]:
        """The guides this one is made of."""
        return (self,)

    @property
    def name(self) -> str:
        """What errors call it."""
        return type(self).__name__

    def hooks(self) -> frozenset[Hook]:
        """The hooks it overrides."""
        return frozenset(
            hook for hook in Hook if getattr(type(self), hook.value) is not getattr(Guide, hook.value)
        )

    def __add__(self, other: "Guide") -> "Together":
        """Both at once: corrections computed at the same prediction (or state) and added, in either order."""
        return Together((*self.parts(), *other.parts()))

    def during(self, start: float = 0.0, stop: float = 1.0) -> "Window":
        """The same guide on a part of the steps only."""
        return Window(self, start, stop)


def _repeated(value: Any, count: int) -> Any:
    """A guide's field for `count` copies of every sample; the field itself where that changes nothing."""
    if isinstance(value, Guide | Measurement):
        return value.repeated(count)
    if isinstance(value, tuple):
        after = tuple(_repeated(part, count) for part in value)
        return after if any(a is not b for a, b in zip(after, value, strict=True)) else value
    owner = getattr(value, "__self__", None)  # of a bound method: measurement.nats
    if isinstance(owner, Measurement) and (repeated := owner.repeated(count)) is not owner:
        return getattr(repeated, value.__name__)
    return value


@dataclass(frozen=True)
class Together(Guide):
    """Several guides: their corrections are added; repeats are the most that one asks for."""

    guides: tuple[Guide, ...]

    def parts(self) -> tuple[Guide, ...]:
        return self.guides

    @property
    def name(self) -> str:
        return " + ".join(guide.name for guide in self.guides)

    def hooks(self) -> frozenset[Hook]:
        return frozenset().union(*(guide.hooks() for guide in self.guides))

    def data(self, ctx: Context, data: Tensor) -> Tensor:
        return _added(data, [guide.data(ctx, data) for guide in self.guides])

    def velocity(self, ctx: Context, velocity: Tensor) -> Tensor:
        return _added(velocity, [guide.velocity(ctx, velocity) for guide in self.guides])

    def state(self, ctx: Context, x: Tensor) -> Tensor:
        return _added(x, [guide.state(ctx, x) for guide in self.guides])

    def accept(self, ctx: Context, x: Tensor) -> Tensor | None:
        return next((index for guide in self.guides if (index := guide.accept(ctx, x)) is not None), None)

    def repeats(self, step: int, steps: int) -> int:
        return max(guide.repeats(step, steps) for guide in self.guides)

    def graph(self, step: int, steps: int) -> bool:
        return any(guide.graph(step, steps) for guide in self.guides)

    def check(self, denoiser: Model, plan: Plan, x: Tensor) -> None:
        choosers = [guide for guide in self.guides if Hook.ACCEPT in guide.hooks()]
        if len(choosers) > 1:
            raise ValueError(f"guides: got {len(choosers)} that choose among particles, expected at most one")
        for guide in self.guides:
            guide.check(denoiser, plan, x)


def _added(base: Tensor, results: list[Tensor]) -> Tensor:
    """`base` with all changes to it; what one guide alone changes is as it left it, to the bit."""
    changed = [result for result in results if result is not base]
    if len(changed) < 2:
        return changed[0] if changed else base
    return base + sum((result - base for result in changed[1:]), changed[0] - base)


@dataclass(frozen=True)
class Window(Guide):
    """`guide` from fraction `start` of the steps (0 is the first, noisiest) up to, not including, fraction `stop`."""

    guide: Guide
    start: float = 0.0
    stop: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop <= 1:
            raise ValueError(
                f"Window: got start={self.start}, stop={self.stop}, expected 0 <= start < stop <= 1"
            )

    def open(self, step: int, steps: int) -> bool:
        """Whether the guide acts at this step."""
        return self.start <= step / steps < self.stop

    def parts(self) -> tuple[Guide, ...]:
        inner = self.guide.parts()
        return (self,) if len(inner) == 1 else tuple(replace(self, guide=guide) for guide in inner)

    @property
    def name(self) -> str:
        return self.guide.name

    def hooks(self) -> frozenset[Hook]:
        return self.guide.hooks()

    def data(self, ctx: Context, data: Tensor) -> Tensor:
        return self.guide.data(ctx, data) if self.open(ctx.step, ctx.steps) else data

    def velocity(self, ctx: Context, velocity: Tensor) -> Tensor:
        return self.guide.velocity(ctx, velocity) if self.open(ctx.step, ctx.steps) else velocity

    def state(self, ctx: Context, x: Tensor) -> Tensor:
        return self.guide.state(ctx, x) if self.open(ctx.step, ctx.steps) else x

    def accept(self, ctx: Context, x: Tensor) -> Tensor | None:
        return self.guide.accept(ctx, x) if self.open(ctx.step, ctx.steps) else None

    def repeats(self, step: int, steps: int) -> int:
        return self.guide.repeats(step, steps) if self.open(step, steps) else 1

    def graph(self, step: int, steps: int) -> bool:
        return self.open(step, steps) and self.guide.graph(step, steps)

    def check(self, denoiser: Model, plan: Plan, x: Tensor) -> None:
        self.guide.check(denoiser, plan, x)


class Twist(Guide, ABC):
    """A guide with its own log p(y | x_t). As the proposal of `smc` it weighs particles by that on the way,
    in place of exp(r(D(x_t))), which takes the prediction for certain: at high noise far too sharp. The last
    weight stays exact.

    Source: Wu et al. 2023 (twisted diffusion sampler), arXiv 2306.17775, section 3.2: any positive twisting
    function will do, the nearer to p(y | x_t) the less the weights vary.
    """

    @abstractmethod
    def log_likelihood(self, ctx: Context) -> Tensor:
        """log p(y | x_t) (B,) at the call whose data prediction the guide has just corrected, up to a
        constant of the time t that all particles share. Free: `data` has computed it.
        """
