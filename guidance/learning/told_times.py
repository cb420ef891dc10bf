"""LearnedLabels: the times that the network is told."""

from dataclasses import dataclass, replace

from torch import Tensor

from ...solvers import Evaluate, Model
from ...solvers.own_prediction import in_own_prediction
from .part import Draft, LearnedPart


@dataclass(frozen=True)
class LearnedLabels(LearnedPart):
    """t_k + theta_k (t_{k-1} - t_{k+1})/2 told at call k in place of t_k, clipped to the plan's times but for the last
    tenth of the way from the last call to the end, where a label may have none (log sigma at sigma = 0).

    The factors stay those of t_k: the plan asks for the network's own prediction, so that nothing else depends on the
    label. On a network that was trained on whole labels it needs one that takes those between. Decoupled times as in
    Tong et al. 2024, arXiv 2405.15506, and S4S, arXiv 2502.17423.
    """

    rank = 2

    def size(self, draft: Draft, model: Model) -> int:
        return draft.plan.nfe

    def applied(self, draft: Draft, theta: Tensor, model: Model) -> Draft:
        plan = in_own_prediction(draft.plan, model)
        called = [float(op.t) for op in plan.calls]  # type: ignore[arg-type]
        last, end = called[-1], float(plan.times[-1])  # type: ignore[arg-type]
        nodes = [float(plan.times[0]), *called, end]  # type: ignore[arg-type]
        high, low = nodes[0], end + (last - end) / 10
        told = [
            min(max(t + shift * (nodes[k] - nodes[k + 2]) / 2, low), high)
            for k, (t, shift) in enumerate(zip(called, theta.tolist(), strict=True))
        ]
        rest = iter(told)
        ops = [replace(op, t=next(rest)) if isinstance(op, Evaluate) else op for op in plan.instructions]
        return replace(draft, plan=replace(plan, instructions=tuple(ops)))
