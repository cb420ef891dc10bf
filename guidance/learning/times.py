"""LearnedTimes: the nodes of the grid."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...solvers import Method, Model
from ...solvers.process import as_time
from .part import Draft, LearnedPart


@dataclass(frozen=True)
class LearnedTimes(LearnedPart):
    """The nodes between the two ends, at which `method` compiles the plan anew.

    With the gaps h_i that the plan has on its clock, which is lambda where both ends have one and t elsewhere,

        gap_i = (s_N - s_0) h_i e^{theta_i} / sum_j h_j e^{theta_j},    theta_0 = 0

    so that nodes stay in order and between the ends, which do not move.

    Args:
        method: of the plan. Its program must not change its form with the step lengths: pass cap=inf to those that
            have one.
    """

    method: Method
    rank = 0

    def size(self, draft: Draft, model: Model) -> int:
        if draft.plan.steps < 2:
            raise ValueError(
                "LearnedTimes: got a plan of 1 step, expected 2 or more: it has no node between its ends; leave "
                "LearnedTimes out"
            )
        made = self.applied(draft, torch.zeros(draft.plan.steps - 1, dtype=torch.float64), model)
        if made.plan.name != draft.plan.name or len(made.plan.instructions) != len(draft.plan.instructions):
            raise ValueError(
                f"LearnedTimes: got the method {self.method} for a plan of {draft.plan.name}, expected the method "
                "that the plan was compiled by; pass that"
            )
        return draft.plan.steps - 1

    def applied(self, draft: Draft, theta: Tensor, model: Model) -> Draft:
        process, t = draft.plan.process, as_time(draft.plan.times)
        lam = process.lam(t)
        clock = lam if bool(lam.isfinite().all()) else t
        gaps = clock.diff() * torch.cat([theta.new_zeros(1), theta]).exp()
        inner = (clock[0] + (clock[-1] - clock[0]) * gaps.cumsum(0) / gaps.sum())[:-1]
        nodes = t.clone()
        nodes[1:-1] = process.time(inner) if clock is lam else inner
        return replace(draft, plan=self.method.along(process, nodes))
