"""Controlled: a flow with a controller that pulls it to an anchor. It lives inside the model call."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...adjoint import PerStep
from ...solvers import FLOW, Model
from ...solvers.broadcast import per_sample
from .base import rectified, velocity


class Controlled(Model):
    """dx/dt = (1 - gain) u(x, t) + gain (anchor - x)/(end - t)

    The second field is the control of least energy that ends at `anchor` at time `end`: the solution of the
    linear quadratic regulator with terminal penalty lambda |x - anchor|^2/2 as lambda goes to infinity. With
    end = 1 it is RF-Inversion's controlled forward ODE (gain = gamma), with end = 0 its reverse one (gain =
    eta): one formula in t. Source: Rout et al. 2024, arXiv 2410.10792, section 3.

    Args:
        model: any prediction on a RectifiedFlow.
        end: the time at which the anchor is reached.

    Called with cond = `Controlled.cond(...)`: anchor and gains are conditioning, so that every gradient
    strategy finds them. Cost: one call of `model`.
    """

    def __init__(self, model: Model, end: float) -> None:
        rectified("Controlled", model)
        self.model, self.end = model, end
        self.process, self.prediction = model.process, FLOW

    @staticmethod
    def cond(inner: Any, anchor: Tensor, gain: Tensor) -> dict[str, Any]:
        """The conditioning: the model's own, the anchor (B, ...), the gains (N,) or (N, B), one for each step
        of the plan.
        """
        return {"inner": inner, "anchor": anchor, "gain": PerStep(gain)}

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        left = per_sample((self.end - t).to(x), x)
        # a plan may call at the end itself only where the gain is nought (`reaching` sees to it): 0 times any
        # finite pull
        pull = (cond["anchor"] - x) / torch.where(left == 0, 1.0, left)
        gain = per_sample(cond["gain"].to(x), x)
        return (1 - gain) * velocity(self.model, x, t, cond["inner"]) + gain * pull

    def parameters(self) -> Iterator[Tensor]:
        yield from self.model.parameters()

    def networks(self) -> Iterator[nn.Module]:
        yield from self.model.networks()
