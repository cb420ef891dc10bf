"""Checkpoint: exact gradients from the states alone, each network call replayed in the backward pass."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from torch import Tensor

from ...solvers import Model, Plan
from ..replay.autograd_node import differentiable, obstacle
from ..replay.recorded import Recorded
from ..replay.region import Regions
from ..replay.rollout import Registers, Rollout
from ..replay.schedule import Keep, choose
from ..replay.segmented import Segmented
from ..replay.tape import Captured, Tape
from .gradient import Around, Gradient

log = logging.getLogger(__name__)


class Mechanism(Enum):
    """How a checkpointed run is shown to autograd.

    TRAJECTORY is one node around the run: a few KiB a step. REGION keeps the graph's nodes of every call, and
    is right where the other cannot be: captured tensors with a graph of their own, FSDP, Apply instructions.
    AUTO chooses the first that is right and logs the choice.
    """

    AUTO = "auto"
    TRAJECTORY = "trajectory"
    REGION = "region"


@dataclass(frozen=True)
class Checkpoint(Gradient):
    """Keeps the state at every network call and replays the call in the backward pass. Exact: equal to `Direct`.

    Cost: 4 N F (N forwards, N replays, N VJPs); memory N states and one activation. A gradient of the
    gradient costs one more run, by regions.

    Args:
        offload: keep the states on the CPU.
        mechanism: see `Mechanism`.
        memory_budget: bytes for states and activations. Where all states fit, the activations of the last
            calls are kept too and not replayed, towards 3 N F; where not, every k-th state is, for one run
            more. Refused where regions are needed.
        recursive: binomial recursion, O(log N) states without a budget, or as many as the budget holds; O(log
            N) runs.
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
            raise ValueError(
                f"{self}: got a memory choice for regions, expected Mechanism.AUTO or TRAJECTORY"
            )

    def run(self, rollout: Rollout, registers: Registers) -> Registers:
        reason = obstacle(rollout)
        if self.mechanism is Mechanism.TRAJECTORY and reason:
            raise ValueError(f"{self}: got {reason}, expected none; use Mechanism.AUTO")
        if self.mechanism is Mechanism.REGION or reason:
            return self._by_regions(rollout, registers, reason or "asked for")
        rollout = _watched_once(rollout)
        try:
            return {"x": differentiable(self._tape(rollout, registers))}
        except Captured as captured:
            if self.mechanism is Mechanism.TRAJECTORY:
                raise ValueError(
                    f"{self}: got {captured}, expected none; pass it in cond or use Mechanism.AUTO"
                ) from None
            return self._by_regions(rollout, registers, str(captured))

    def around_steps(self, model: Model, declared: Mapping[str, Tensor]) -> Around:
        return self._regions(model, declared, "a guided run")

    def cost(self, plan: Plan) -> tuple[int, int]:
        if self.recursive and self.memory_budget is None:
            return choose(plan.nfe, plan.steps, 1, 1, 1, None, True).forwards, plan.nfe
        return 2 * plan.nfe, plan.nfe

    def _tape(self, rollout: Rollout, registers: Registers) -> Tape:
        nothing = next(rollout.program.calls(), None) is None  # the rest of a plan, after its last call
        if nothing or self.memory_budget is None and not self.recursive:
            return Recorded(rollout, registers, self.offload)
        return Segmented(rollout, registers, self.offload, self._choose)

    def _choose(self, calls: int, steps: int, state: int, held: int, activation: int) -> Keep:
        keep = choose(calls, steps, state, held, activation, self.memory_budget, self.recursive)
        log.info("Checkpoint %s", keep)
        if self.observe is not None:
            self.observe(keep)
        return keep

    def _by_regions(self, rollout: Rollout, registers: Registers, reason: str) -> Registers:
        regions = self._regions(rollout.model, rollout.declared(), reason)
        out = rollout.execute(registers, regions.evaluate(rollout))
        regions.check()
        return out

    def _regions(self, model: Model, declared: Mapping[str, Tensor], reason: str) -> Regions:
        if self.memory_budget is not None or self.recursive:
            raise ValueError(
                f"{self}: got {reason}, for which every call becomes a region that keeps its state; expected none "
                "where a memory budget is to be kept; take it away, or Checkpoint(offload=True)"
            )
        log.info("Checkpoint by regions: %s", reason)
        return Regions(model, declared, self.offload)


def _watched_once(rollout: Rollout) -> Rollout:
    """The rollout for a run that may start again: the watcher sees each step once."""
    seen = set[int]()

    def watch(step: int, x: Tensor) -> None:
        if step not in seen:
            seen.add(step)
            rollout.watch(step, x)

    return replace(rollout, watch=watch)
