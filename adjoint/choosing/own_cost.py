"""OwnCost: what a strategy takes beside the network, measured on a network that costs next to nothing."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...solvers import Denoiser, Model
from ..replay.bound_model import BoundModel
from ..replay.rollout import Registers, Rollout
from ..strategies.checkpoint import Checkpoint, Mechanism
from ..strategies.direct import Direct
from ..strategies.gradient import Gradient
from ..strategies.reversible import Reversible
from .call_cost import clock

SHORT, LONG = 2, 8  # steps at the end of the plan, whose difference stands for all
REPEATS = 4


@dataclass(frozen=True)
class Own:
    """Seconds of a run, and of each of its network calls, that the network does not take."""

    once: float
    each: float

    def of(self, calls: int) -> float:
        return self.once + calls * self.each


NEVER = Own(math.inf, math.inf)


@dataclass(frozen=True)
class OwnCost:
    """Of sums, noise, states kept and looked at.

    Attributes:
        loop: of the loop alone.
        direct, recorded, offloaded, regions, reversible: of a value and a gradient by `Direct`, `Checkpoint`, the same
            with offload, by regions, and `Reversible`; infinite where a strategy is not asked for.
    """

    loop: Own
    direct: Own
    recorded: Own = NEVER
    offloaded: Own = NEVER
    regions: Own = NEVER
    reversible: Own = NEVER


def measured_own(rollout: Rollout, registers: Registers, trajectory: bool, reversible: bool) -> OwnCost:
    """The cost of `rollout` without its network, of which no call is made.

    Args:
        trajectory: whether one node around the run is possible.
        reversible: whether the plan can be inverted.
    """
    device = registers["x"].device
    actions = {"loop": _loop, "direct": _gradient(Direct())}
    if trajectory:
        actions["recorded"] = _gradient(Checkpoint(mechanism=Mechanism.TRAJECTORY))
    else:
        actions["regions"] = _gradient(Checkpoint(mechanism=Mechanism.REGION))
    if trajectory and reversible:
        actions["reversible"] = _gradient(Reversible(tolerance=math.inf))
    if device.type != "cpu":
        actions["offloaded"] = _gradient(Checkpoint(offload=True))
    with torch.enable_grad():
        ends = [_End.of(rollout, registers["x"], steps) for steps in (SHORT, LONG)]
        return OwnCost(**{name: _measured(action, *ends) for name, action in actions.items()})


@dataclass(frozen=True, eq=False)
class _End:
    """The last steps of a run on a network that costs next to nothing, and how many calls they make."""

    rollout: Rollout
    entry: tuple[str, ...]
    x: Tensor
    calls: int

    @classmethod
    def of(cls, rollout: Rollout, x: Tensor, steps: int) -> "_End":
        plan = rollout.program.plan
        cut = max(0, plan.steps - steps)
        program = rollout.program.steps(cut, plan.steps)
        free = replace(rollout.quiet(), program=program, model=_free(rollout.model), at=())
        return cls(free, plan.split(cut)[1].entry, x.detach(), sum(1 for _ in program.calls()))

    def start(self) -> Registers:
        return {name: self.x.clone().requires_grad_() for name in self.entry}


Action = Callable[[_End], None]


def _loop(end: _End) -> None:
    with torch.no_grad():
        end.rollout.execute(end.start())


def _gradient(strategy: Gradient) -> Action:
    def value_and_gradient(end: _End) -> None:
        start = end.start()
        x = start["x"]
        out = strategy.run(end.rollout, start)["x"]
        torch.autograd.grad(out, x, torch.ones_like(out))

    return value_and_gradient


def _measured(action: Action, short: _End, long: _End) -> Own:
    """Of the least of some runs of either length: the code is the same each time, and the rest is noise."""
    times: dict[int, list[float]] = {short.calls: [], long.calls: []}
    for _ in range(REPEATS):
        for end in (short, long):
            began = _worked(end.x.device)
            action(end)
            times[end.calls].append(_worked(end.x.device) - began)
    few, many = min(times[short.calls]), min(times[long.calls])
    each = max(0.0, many - few) / max(1, long.calls - short.calls) or few / max(1, short.calls)
    return Own(max(0.0, few - short.calls * each), each)


def _worked(device: torch.device) -> float:
    """Seconds that this thread worked: all of it is Python's and small sums, and others' work is none of ours. On a
    device, the clock's.
    """
    return time.thread_time() if device.type == "cpu" else clock(device)


class _Half(nn.Module):
    """Half of x."""

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return x * 0.5


class _Halves(Denoiser):
    """The same for a plan that asks for a variance."""

    learns_variance = True

    def with_variance(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return torch.cat([x * 0.5, x * 0.5], 1)


def _free(model: Model) -> Model:
    kind = _Halves if model.learns_variance else Denoiser
    return BoundModel(kind(_Half(), model.process, model.prediction))
