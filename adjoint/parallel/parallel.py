"""Parallel: a run and its gradient as two fixed points, each found by batched calls instead of calls in sequence."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...solvers import Plan, Prediction, V
from ...solvers.networks.shared import check_shared
from ...solvers.wanted import Count, NonNegative, Whole
from ..replay.bound_model import BoundModel
from ..replay.rollout import Registers, Rollout
from ..replay.tape import Tape
from ..replay.wrappers import is_compiled
from ..strategies.held_slopes import held_slopes
from ..strategies.taped import Taped
from .ranks import Ranks
from .sweep_tape import SweepSettings, SweepTape
from .swept import Swept
from .unrolled import Unrolled


@dataclass(frozen=True)
class Parallel(Taped):
    """Network calls of many steps at once: a dozen batched calls forward and a dozen VJPs back, nearly whatever N.

    A plan is linear around its M calls, so a run is one equation in the predictions F_j = F(U_j, t_j),

        U_j = s_j x_T + sum_{i<j} C_ji F_i + noise,

    C strictly triangular. A sweep runs the plan with the predictions of the sweep before, each moved on to its new
    state by A_j dU (the slope that `base` gives it) and by secants of earlier sweeps, then makes all calls of a window
    in one batched call. After k sweeps the first k states are exact, so M sweeps at most; 9 to 16 at M = 100. The
    backward pass does the same with the transposed plan: a_i = sum_j C_ji^T (J_j^T a_j) + ..., J at the states found.
    `tol` is no bound: on trained networks the value is `Checkpoint`'s to about `tol`, the gradient to some times that;
    between modes to 50 times, and on a rough network the gradient of one sample can be wrong altogether (lower `tol`).

    For depth, not for work: 5 to 7 times the calls of the sequential run forwards, 6 to 13 times back. It pays where a
    device is not filled by one call, at batch 1 on a GPU, or on several devices; on a CPU `Checkpoint` is faster.

    The network must treat the rows of a batch apart and by their own t. Calls on a single step, the first, the middle
    and the last, are compared with their rows of batched ones; ValueError where they differ. Conditioning with a batch
    axis is repeated, `PerStep` taken step by step, anything else must broadcast.

    Args:
        window: network calls (of a sample) in one batched call; None for all of the plan. Memory is its activations,
            and 3 memory + 4 states for each call of the plan.
        tol: by how much of its own norm a state, or a cotangent, may move in a sweep and count as settled: each node of
            each sample by itself, its batch mates aside. 0 sweeps until nothing changes.
        base: the prediction that is held from sweep to sweep where no secant says more. V is the slope of Gaussian data
            of unit variance, under any process.
        memory: secants at each node: 0 for plain Picard sweeps.
        backward_sweeps: k at most in each window: the Neumann series of the gradient, cut after order k. 0 holds `base`
            constant in the backward pass, as DRTune (`base=NOISE` for a network that predicts noise under DDIM) does.
        group: a `torch.distributed` process group that shares the rows; every rank calls with the same arguments and
            gets the same values and gradients.
        observe: told what each pass took.

    Cost: as listed by `cost` at most, in batched calls; `observe` tells the actual number.
    Source: Picard sweeps with a sliding window: Shih et al. 2023 (ParaDiGMS), arXiv 2305.16317; the slopes, secants at
    each node and the transposed sweeps are ours.
    """

    window: Count | None = None
    tol: NonNegative = 1e-4
    base: Prediction = V
    memory: Whole = 3
    backward_sweeps: Whole | None = None
    group: Any = None
    observe: Callable[[Swept], None] | None = None

    def tape(self, rollout: Rollout, registers: Registers) -> Tape:
        unrolled = Unrolled(
            rollout.program, held_slopes(self, self.base, rollout.program.plan), registers["x"]
        )
        if len(unrolled.kinds) > 1:
            raise ValueError(
                f"{self}: got {rollout.program.plan.name}, whose calls have different functions on their predictions, "
                "expected one for all; use Checkpoint()"
            )
        if not isinstance(rollout.model, BoundModel):  # a run without the samples that were lost
            raise ValueError(
                f"{self}: got keep_finite=True and samples that are not finite, expected finite ones; leave them "
                "out of the batch, or use Checkpoint()"
            )
        if is_compiled(rollout.model):
            raise ValueError(
                f"{self}: got a compiled network, expected an eager one: the backward sweeps differentiate one graph "
                "many times, which a compiled one allows once; sample with the module that was compiled, or use "
                "Checkpoint()"
            )
        why = "a batched call has rows of several steps"
        check_shared(str(self), why, rollout.model.model, registers["x"], rollout.cond)
        how = SweepSettings(
            self.window or max(len(unrolled), 1), self.tol, self.memory, self.backward_sweeps, self.observe
        )
        return SweepTape(rollout, registers, unrolled, Ranks(self.group), how)

    def cost(self, plan: Plan) -> tuple[int, int]:
        """Batched calls at most (a sweep for each, six alone, one replay for each window), and batched VJPs."""
        windows = -(-plan.nfe // (self.window or max(plan.nfe, 1)))
        back = plan.nfe if self.backward_sweeps is None else min(plan.nfe, windows * self.backward_sweeps)
        return plan.nfe + 2 * min(plan.nfe, 3) + windows, back + windows
