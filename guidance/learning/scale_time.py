"""LearnedScaleTime: Euler or midpoint steps in coordinates whose scale and clock are learned."""

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from ...solvers import DATA, Combine, Evaluate, Model, Plan
from ...solvers.instructions import Instruction
from ...solvers.process import Process, as_time
from ...solvers.wanted import Wanted
from .part import Draft, LearnedPart

OneOrTwo = Annotated[int, Wanted("1 (Euler) or 2 (midpoint)", lambda order: order in (1, 2))]


@dataclass(frozen=True)
class LearnedScaleTime(LearnedPart):
    """The numbers of a Bespoke solver. Every process is a rectified flow in X = x/(alpha + sigma) and tau =
    sigma/(alpha + sigma),

        dX/dtau = v = E - D = (X - D)/tau

    and under any scale s and clock tau of r so is Y = s_r X(tau_r) the solution of an equation, on which a step of r,
    of length 1, is Euler's from node i to j,

        s_j X_j = (s_i + s'_i) X_i + tau'_i s_i v_i

    or the midpoint rule's, with a node m between the two,

        s_m X_m = (s_i + s'_i/2) X_i + (tau'_i/2) s_i v_i
        s_j X_j = s_i X_i + s'_m X_m + tau'_m s_m v_m

    Learned are all nodes, through their gaps as in `LearnedTimes`, log s but at the start, s', and the logarithm of
    tau' over what leads to the next node: 4 N - 1 numbers for Euler and 8 N - 1 for midpoint, as in the paper. At
    theta = 0 Euler's is DDIM on the plan's grid, and midpoint's `FlowMidpoint` on the rectified path. Only the grid is
    taken from the plan: the program is made anew.

    Args:
        order: 1, Euler, one call a step; 2, midpoint, two calls.

    Source: Shaul et al. 2023, arXiv 2310.19075, RK1- and RK2-Bespoke. The paper transforms the model's own clock and
    path, and keeps numbers positive by absolute values and softplus.
    """

    order: OneOrTwo = 2
    rank = 0

    def size(self, draft: Draft, model: Model) -> int:
        if bool((as_time(draft.plan.times).diff() > 0).any()):
            raise ValueError(
                "LearnedScaleTime: got a rising grid, expected one that falls from noise to data; turn it round"
            )
        return 4 * self.order * draft.plan.steps - 1

    def applied(self, draft: Draft, theta: Tensor, model: Model) -> Draft:
        calls = self.order * draft.plan.steps
        gaps, scale, slope, rate = torch.cat([theta.new_zeros(1), theta]).split(calls)
        nodes = self._nodes(draft.plan.process, as_time(draft.plan.times), gaps, scale)
        ops, starts = list[Instruction](), list[int]()
        for k in range(0, calls, self.order):
            starts.append(len(ops))
            i, j = nodes[k], nodes[k + self.order]
            ops.append(Evaluate((f"D{k}",), "x", i.t, DATA))
            first = (j if self.order == 1 else nodes[k + 1]).tau - i.tau
            moved = first * float(rate[k].exp())
            if self.order == 1:
                ops.append(_combined("x", j, i.terms("x", f"D{k}", i.s + float(slope[k]), moved)))
                continue
            m = nodes[k + 1]
            ops.append(_combined("z", m, i.terms("x", f"D{k}", i.s + float(slope[k]) / 2, moved)))
            ops.append(Evaluate((f"D{k + 1}",), "z", m.t, DATA))
            moved = (j.tau - i.tau) * float(rate[k + 1].exp())
            behind = ((i.s / i.unit, "x"), *m.terms("z", f"D{k + 1}", float(slope[k + 1]), moved))
            ops.append(_combined("x", j, behind))
        plan = Plan(
            f"{'Euler' if self.order == 1 else 'Midpoint'} in a learned scale and time",
            draft.plan.process,
            tuple(node.t for node in nodes[:: self.order]),
            tuple(ops),
            tuple(starts),
            self.order,
            False,
        )
        return replace(draft, plan=plan)

    def _nodes(self, process: Process, times: Tensor, gaps: Tensor, scale: Tensor) -> list["_Node"]:
        """Of every call and of the end, with e^gaps on the gaps in tau and s = e^scale from the second on."""
        ends = process.sigma(times) / (process.alpha(times) + process.sigma(times))
        moved = ends.diff().repeat_interleave(self.order) * gaps.exp()
        inner = (ends[0] + (ends[-1] - ends[0]) * moved.cumsum(0) / moved.sum())[:-1]
        t = torch.cat([times[:1], process.time(torch.log((1 - inner) / inner)), times[-1:]])
        tau, unit = torch.cat([ends[:1], inner, ends[-1:]]), process.alpha(t) + process.sigma(t)
        s = torch.cat([scale.new_ones(1), scale.exp()])
        return [_Node(*row) for row in torch.stack([t, tau, unit, s], 1).tolist()]


@dataclass(frozen=True)
class _Node:
    """A time with its tau, its alpha + sigma, and its s."""

    t: float
    tau: float
    unit: float
    s: float

    def terms(self, x: str, data: str, scale: float, moved: float) -> tuple[tuple[float, str], ...]:
        """scale X + moved s v in terms of the state x here and of D."""
        pull = moved * self.s / self.tau
        return ((scale + pull) / self.unit, x), (-pull, data)


def _combined(out: str, node: _Node, terms: tuple[tuple[float, str], ...]) -> Combine:
    """The state at `node`, whose s X is the sum of `terms`."""
    return Combine(out, tuple([(c * node.unit / node.s, name) for c, name in terms]))
