"""SkipStraight: a gradient through a flow that takes one Jacobian for a whole stretch where the path is straight."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers import FLOW, Call, Combine, Evaluate, Plan
from ...solvers.broadcast import per_sample
from ...solvers.wanted import NonNegative
from ..replay.rollout import Registers, Rollout
from .gradient import Gradient
from .input import Input


@dataclass(frozen=True)
class SkipStraight(Gradient):
    """Over a stretch of Euler steps i .. j-1 whose velocities stay within `tolerance` |u_i| of the first, u_i:

        lambda_i = (I + (t_j - t_i) J_i)^T lambda_j,   lambda_k = lambda_j for i < k < j:   one VJP in place of j - i.

    Stretches are found sample by sample: the batch makes the calls that any of its samples needs. An
    approximation; tolerance 0 is exact.

    Source: Liu et al. 2023 (FlowGrad), CVPR 2023, section 3.2 (there straightness is taken over the batch).
    Cost: N + M forwards and M VJPs, M the calls that begin a stretch; memory M activations.
    """

    tolerance: NonNegative = 5e-3

    def check(self, plan: Plan, wanted: Collection[Input] = ()) -> None:
        if (
            not all(
                isinstance(op, Combine) or isinstance(op, Evaluate) and op.want == FLOW
                for op in plan.instructions
            )
            or plan.nfe != plan.steps
            or plan.slots
        ):
            raise ValueError(
                f"{self}: got {plan.name}, expected Euler steps on the velocity; take FlowEuler()"
            )

    def run(self, rollout: Rollout, registers: Registers) -> Registers:
        plan = rollout.program.plan
        self.check(plan)
        velocities: dict[int, Tensor] = {}

        def record(call: Call, state: Tensor) -> Tensor:
            # with a graph, for a network that keeps something from call to call; of it nothing is kept here
            with torch.enable_grad():
                velocities[call.step] = rollout.evaluate(call, state).detach()
            return velocities[call.step]

        with torch.no_grad():
            rollout.quiet().execute(dict(registers), record)
        shares = self.shares(torch.stack([velocities[k] for k in sorted(velocities)]), plan)

        def evaluate(call: Call, state: Tensor) -> Tensor:
            share = shares[call.step]
            if not bool((share != 0).any()):
                return velocities[call.step]
            live = rollout.evaluate(call, state)
            return velocities[call.step] + per_sample(share, state) * (live - live.detach())

        return rollout.execute(registers, evaluate)

    def shares(self, velocities: Tensor, plan: Plan) -> Tensor:
        """(N, B): by how much each step's Jacobian counts: the length of the stretch it begins in its own
        step, or 0.
        """
        times = torch.tensor(plan.times, dtype=torch.float64, device=velocities.device)
        lengths = times.diff(dim=0).reshape(plan.steps, -1).to(velocities).expand(velocities.shape[:2])
        shares, flat = torch.zeros_like(lengths), velocities.flatten(2)
        begin = torch.zeros(flat.shape[1], dtype=torch.long, device=flat.device)
        each = torch.arange(flat.shape[1], device=flat.device)
        for k in range(plan.steps):
            first = flat[begin, each]
            straight = (flat[k] - first).norm(dim=1) < self.tolerance * first.norm(dim=1)
            begin = torch.where(straight & (k > begin), begin, k)
            shares[begin, each] += lengths[k] / lengths[begin, each]
        return shares

    def cost(self, plan: Plan) -> tuple[int, int]:
        return 2 * plan.nfe, plan.nfe  # at most
