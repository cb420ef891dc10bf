"""Gradient strategies: what is kept between a run and its backward pass."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum

import torch
from torch import Tensor

from ..solvers import Apply, Plan
from .keep import Keep, chosen
from .region import regions
from .rollout import Rollout, sharded
from .segmented import Segmented
from .trajectory import Captured, Recorded, Tape, differentiable

Registers = dict[str, Tensor]
log = logging.getLogger(__name__)


class Gradient(ABC):
    """Runs a rollout so that its result can be called back by autograd."""

    @property
    def samples(self) -> bool:
        """Whether it samples only, by other means than the plan, so that nothing needs to require grad."""
        return False

    @abstractmethod
    def run(self, rollout: Rollout, registers: Registers) -> Registers:
        """The registers after the run."""

    @abstractmethod
    def cost(self, plan: Plan) -> tuple[int, int]:
        """Network calls forward, replays included, and VJPs of one value and gradient."""


@dataclass(frozen=True)
class Direct(Gradient):
    """Plain autograd through the loop. Cost: 3 N F; memory N activations. Exact."""

    def run(self, rollout: Rollout, registers: Registers) -> Registers:
        return rollout.execute(registers)

    def cost(self, plan: Plan) -> tuple[int, int]:
        return plan.nfe, plan.nfe


class Mechanism(Enum):
    """How a checkpointed run is shown to autograd.

    TRAJECTORY is one node around the run: a few KiB a step. REGION keeps the graph's nodes of every call, and is right
    where the other cannot be: captured tensors with a graph of their own, FSDP, Apply instructions. AUTO chooses the
    first that is right and logs the choice.
    """

    AUTO = "auto"
    TRAJECTORY = "trajectory"
    REGION = "region"


@dataclass(frozen=True)
class Checkpoint(Gradient):
    """Keeps the state at every network call and replays the call in the backward pass. Exact: equal to `Direct`.

    Cost: 4 N F (N forwards, N replays, N VJPs); memory N states and one activation. A gradient of the gradient costs one
    more run, by regions.

    Args:
        offload: keep the states on the CPU.
        mechanism: see `Mechanism`.
        memory_budget: bytes for states and activations. Where all states fit, the activations of the last calls are kept
            too and not replayed, towards 3 N F; where not, every k-th state is, for one run more.
        recursive: binomial recursion, O(log N) states without a budget, or as many as the budget holds; O(log N) runs.
        observe: told the choice (`Keep`) after the first network call; it is logged too.
    """

    offload: bool = False
    mechanism: Mechanism = Mechanism.AUTO
    memory_budget: int | None = None
    recursive: bool = False
    observe: Callable[[Keep], None] | None = None

    def __post_init__(self) -> None:
        chooses = self.memory_budget is not None or self.recursive
        if chooses and self.mechanism is Mechanism.REGION:
            raise ValueError(f"{self}: got a memory choice for regions, expected Mechanism.AUTO or TRAJECTORY")

    def run(self, rollout: Rollout, registers: Registers) -> Registers:
        reason = obstacle(rollout)
        if self.mechanism is Mechanism.TRAJECTORY and reason:
            raise ValueError(f"{self}: got {reason}, expected none; use Mechanism.AUTO")
        if self.mechanism is Mechanism.REGION or reason:
            return self._by_regions(rollout, registers, reason or "asked for")
        try:
            return {"x": differentiable(self._tape(rollout, registers))}
        except Captured as captured:
            if self.mechanism is Mechanism.TRAJECTORY:
                raise ValueError(f"{self}: got {captured}, expected none; pass it in cond or use Mechanism.AUTO") from None
            return self._by_regions(_seen(rollout), registers, str(captured))

    def cost(self, plan: Plan) -> tuple[int, int]:
        if self.recursive and self.memory_budget is None:
            return chosen(plan.nfe, plan.steps, 1, 1, 1, None, True).forwards, plan.nfe
        return 2 * plan.nfe, plan.nfe

    def _tape(self, rollout: Rollout, registers: Registers) -> Tape:
        if self.memory_budget is None and not self.recursive:
            return Recorded(rollout, registers, self.offload)
        return Segmented(rollout, registers, self.memory_budget, self.recursive, self.offload, self._say)

    def _say(self, keep: Keep) -> None:
        log.info("Checkpoint %s", keep)
        if self.observe is not None:
            self.observe(keep)

    def _by_regions(self, rollout: Rollout, registers: Registers, reason: str) -> Registers:
        log.info("Checkpoint by regions: %s", reason)
        return rollout.execute(registers, regions(rollout, self.offload))


def obstacle(rollout: Rollout) -> str:
    """Why one node around the run would be wrong, as far as is known before the first call; "" if nothing is."""
    if any(isinstance(op, Apply) for op in rollout.program.plan.instructions):
        return "a plan with Apply instructions"
    if rollout.program.learned:
        return "coefficients that require grad"
    if sharded(rollout.model):
        return "sharded parameters (FSDP)"
    return ""


def refuse(strategy: Gradient, rollout: Rollout) -> None:
    """Raise ValueError where one node around the run would be wrong and there is nothing to fall back to."""
    reason = obstacle(rollout)
    if reason:
        raise ValueError(f"{strategy}: got {reason}, expected none; use Checkpoint()")


def _seen(rollout: Rollout) -> Rollout:
    """The rollout for a second start: the watcher has seen the first state."""
    fresh = iter((False,))

    def watch(step: int, x: Tensor) -> None:
        if next(fresh, True):
            rollout.watch(step, x)

    return replace(rollout, watch=watch)


@dataclass(frozen=True)
class Truncated(Gradient):
    """Differentiates only the last `last` steps; the steps before run without a graph. DRaFT-K (arXiv 2309.17400).

    The gradient is that of the truncated chain: with last < N nothing reaches x, early noise or early conditioning.
    Cost: N F + 3 last F under `Direct`, one F more per step under `Checkpoint`.
    """

    last: int
    inner: Gradient = field(default_factory=Checkpoint)

    def __post_init__(self) -> None:
        if self.last < 1:
            raise ValueError(f"Truncated: got last={self.last}, expected at least 1 step; gradient=None samples without gradients")

    def run(self, rollout: Rollout, registers: Registers) -> Registers:
        program = rollout.program
        cut = max(0, program.plan.steps - self.last)
        head, tail = program.steps(0, cut), program.steps(cut, program.plan.steps)
        if cut:
            with torch.no_grad():
                registers = replace(rollout, program=head).execute({name: value.detach() for name, value in registers.items()})
        return self.inner.run(replace(rollout, program=tail), registers)

    def cost(self, plan: Plan) -> tuple[int, int]:
        head, tail = plan.split(max(0, plan.steps - self.last))
        calls, vjps = self.inner.cost(tail)
        return head.nfe + calls, vjps


@dataclass(frozen=True)
class Auto(Gradient):
    """`Checkpoint()` where something requires grad, plain sampling where nothing does: the default of `sample`."""

    def run(self, rollout: Rollout, registers: Registers) -> Registers:
        return Checkpoint().run(rollout, registers)

    def cost(self, plan: Plan) -> tuple[int, int]:
        return Checkpoint().cost(plan)
