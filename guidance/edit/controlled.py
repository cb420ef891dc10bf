"""Controlled: a flow with a controller that pulls it to an anchor. It lives inside the model call."""

from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...adjoint import PerStep
from ...solvers import FLOW, Evaluate, Model, Plan
from ...solvers.broadcast import per_sample
from .base import as_velocity, check_rectified


class Controlled(Model):
    """dx/dt = (1 - gain) u(x, t) + gain (anchor - x)/(end - t)

    The second field is the straight line to `anchor` at time `end`, the control of least energy that gets
    there: the solution of the linear quadratic regulator with terminal penalty lambda |x - anchor|^2/2 as
    lambda goes to infinity. With end = 1 it is RF-Inversion's controlled forward ODE (gain = gamma), with
    end = 0 its reverse one (gain = eta): one formula in t. Source: Rout et al. 2024, arXiv 2410.10792,
    section 3.

    Args:
        model: any prediction on a RectifiedFlow.
        end: the time at which the anchor is reached.

    Called with cond = `Controlled.cond(...)`: anchor and gains are conditioning, so that every gradient
    strategy finds them. Cost: one call of `model`.
    """

    def __init__(self, model: Model, end: float) -> None:
        check_rectified("Controlled", model)
        self.model, self.end = model, end
        self.process, self.prediction = model.process, FLOW

    @staticmethod
    def cond(inner: Any, anchor: Tensor, gain: Tensor) -> dict[str, Any]:
        """The conditioning: the model's own, the anchor (B, ...), the gains (N,) or (N, B), one for each step
        of the plan.
        """
        return {"inner": inner, "anchor": anchor, "gain": PerStep(gain)}

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        u = as_velocity(self.model(x, t, cond["inner"]), self.model, x, t)
        left = per_sample((self.end - t).to(x), x)
        # at the end itself the pull has no value: `check_end` lets a plan call there only while the gain is 0,
        # and 0 times any finite number will do
        pull = (cond["anchor"] - x) / torch.where(left == 0, 1.0, left)
        gain = per_sample(cond["gain"].to(x), x)
        return (1 - gain) * u + gain * pull

    def check_times(self, times: Tensor) -> None:
        self.model.check_times(times)

    def check_end(self, plan: Plan, gain: Tensor) -> None:
        """Raise ValueError where `plan` calls at time `end` in a step whose gain (N,) or (N, B) is not 0."""
        for k, op in enumerate(plan.instructions):
            if isinstance(op, Evaluate) and self.end in (op.t if isinstance(op.t, tuple) else (op.t,)):
                step = bisect_right(plan.starts, k) - 1
                if bool(gain.detach()[step].any()):
                    raise ValueError(
                        f"{plan.name}: got a call at t={self.end:g} in step {step}, where the controller has "
                        "no value, expected none while its gain is not 0; take FlowEuler() or "
                        "FlowMidpoint(), or stop the schedule before"
                    )

    def parameters(self) -> Iterator[Tensor]:
        yield from self.model.parameters()

    def networks(self) -> Iterator[nn.Module]:
        yield from self.model.networks()
