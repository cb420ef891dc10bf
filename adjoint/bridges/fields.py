"""Fields for other people's solvers: the probability-flow ODE and the reverse SDE of a denoiser, safe at both ends."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ...solvers import FLOW, Call, Model
from ...solvers.checked import checked
from ...solvers.loop import predict
from ...solvers.per_step import PerStep
from ...solvers.prediction import conversion
from ...solvers.process import as_time
from ..replay.cond import leaves

Field = Callable[[float, Tensor], Tensor]  # (t, x) -> dx/dt

# of the process's length: float32 times still resolve it, and it costs a solution about 1e-5 of a velocity
MARGIN = 1e-5
SDE_TYPES = ("ito", "stratonovich")


class Velocity:
    """FLOW predictions of a model at times clamped to where they are finite.

    Args:
        model: whose predictions are converted.
        sde: whether f and g^2 of the process must be finite too.
    """

    def __init__(self, model: Model, sde: bool = False) -> None:
        self.model, self.process = model, model.process
        width = self.process.t_max - self.process.t_min
        ends = (self.process.t_min, MARGIN * width), (self.process.t_max, -MARGIN * width)
        self.known: dict[float, tuple[float, float]] = {}
        self.low, self.high = (t if self._finite(t, sde) else t + inward for t, inward in ends)

    def _finite(self, t: float, sde: bool) -> bool:
        try:
            conversion(self.model.prediction, FLOW, self.process, t)
        except ValueError:
            return False
        # a FLOW network needs no conversion, but what it was trained on may be infinite
        rates = FLOW.row(self.process, as_time(t)) + ((self.process.f(t), self.process.g2(t)) if sde else ())
        return all(bool(rate.isfinite()) for rate in rates)

    def clamp(self, t: float) -> float:
        """The nearest time at which the velocity is finite."""
        if math.isnan(t):
            raise FloatingPointError(
                "a time: got NaN from the solver, expected a number: its step is not finite, so the velocity "
                "before was not; check the network"
            )
        return min(max(t, self.low), self.high)

    def call(self, t: float, x: Tensor, index: int = 0, step: int = 0) -> Call:
        """The network call for the velocity at time t of state x (B, ...)."""
        t = self.clamp(t)
        a, b = (float(c) for c in conversion(self.model.prediction, FLOW, self.process, t))
        return Call(index, step, x.new_full((len(x),), t), a, b)

    def linear(self, t: float) -> tuple[float, float]:
        """(f, g) of dx = f x dt + g dw at the clamped time."""
        t = self.clamp(t)
        if t not in self.known:  # solvers ask for one time again and again
            self.known = {t: (float(self.process.f(t)), math.sqrt(max(float(self.process.g2(t)), 0.0)))}
        return self.known[t]


class _FieldModule(nn.Module):
    """What is common to both: the network as a submodule, and every tensor that wants a gradient among the parameters.

    The adjoints of torchdiffeq and torchsde give gradients to what they find there and, silently, to nothing
    else.
    """

    def __init__(self, model: Model, cond: Any, velocity: Velocity) -> None:
        super().__init__()
        if any(isinstance(leaf, PerStep) for leaf in tree_leaves(cond)):
            raise ValueError(
                "cond: got PerStep, expected constant conditioning, for a field has no steps; use "
                "TorchDiffEq()"
            )
        self.velocity, self.cond = velocity, cond
        self.networks = nn.ModuleList(model.networks())
        self._model = model
        seen = {id(value) for value in self.networks.parameters()}
        wanted = (leaf for leaf in leaves(cond) if leaf.requires_grad)
        for kind, tensors in (("model", model.parameters()), ("cond", wanted)):
            for k, value in enumerate(tensors):
                if id(value) not in seen:
                    seen.add(id(value))
                    # register_parameter wants an nn.Parameter; conditioning may be any tensor, a result of
                    # others too
                    self._parameters[f"{kind}{k}"] = value  # type: ignore[assignment]

    def flow(self, t: float, x: Tensor) -> Tensor:
        """dx/dt at time t."""
        return predict(self._model, self.velocity.call(t, x), x, self.cond)


class _ODE(_FieldModule):
    """See `as_ode`."""

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.flow(t.detach().item(), x)


class ReverseSDE(_FieldModule):
    """See `as_sde`."""

    noise_type = "diagonal"

    def __init__(
        self,
        model: Model,
        cond: Any,
        start: float | None,
        sde_type: str,
        shape: Sequence[int] | None,
        velocity: Velocity | None = None,
    ) -> None:
        super().__init__(model, cond, velocity or Velocity(model, sde=True))
        if sde_type not in SDE_TYPES:
            raise ValueError(
                f"sde_type: got {sde_type!r}, expected one of {SDE_TYPES}; they are one equation here, for g "
                "has no x"
            )
        self.sde_type, self.shape = sde_type, None if shape is None else tuple(shape)
        self.start = model.process.t_max if start is None else start

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        """The drift at their time and state."""
        return self.drift(t, y, self.flow)

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        """The diffusion there, one number for each entry of y."""
        return torch.full_like(y, self.velocity.linear(self.start - t.detach().item())[1])

    def drift(self, t: Tensor, y: Tensor, flow: Field) -> Tensor:
        """As `f`, with velocities from `flow`."""
        time = self.start - t.detach().item()
        x = y if self.shape is None else y.reshape(len(y), *self.shape)
        return self.velocity.linear(time)[0] * y - 2 * flow(time, x).reshape(y.shape)


@checked
def as_ode(denoiser: Model, cond: Any = None) -> nn.Module:
    """f(t, x) = dx/dt of the probability-flow ODE as a module, what `torchdiffeq.odeint` and `odeint_adjoint` take.

    Any prediction is converted to FLOW. Adaptive solvers step past both ends of their interval: t is clamped
    to the process, and to 1e-5 of its length inside an end where the velocity is infinite (VP at t = 0), so
    that it is held constant from there on. Times are constants with no gradient: for autograd through an
    adaptive `odeint` fix its first step, which it would differentiate, options={"first_step": ...};
    `odeint_adjoint` and `TorchDiffEq` need no care.

    Args:
        denoiser: network + process + prediction. A network that is no module hides what it captures from
            `odeint_adjoint`.
        cond: constant conditioning; where it requires grad it is among `parameters()`, so adjoints find it.

    Shapes: t scalar, x (B, ...) -> (B, ...). Raises ValueError for PerStep conditioning. Cost: one network
    call. Source: Song et al. 2021, arXiv 2011.13456, eq. 13.
    """
    return _ODE(denoiser, cond, Velocity(denoiser))


def as_sde(
    denoiser: Model,
    cond: Any = None,
    *,
    start: float | None = None,
    sde_type: str = "ito",
    shape: Sequence[int] | None = None,
) -> ReverseSDE:
    """The reverse SDE as a module with f, g, noise_type "diagonal" and sde_type, what `torchsde.sdeint` takes.

    torchsde integrates forwards only: its time is s = start - t, from 0 at the noise, and with the velocity u

        dx = (f x - g^2 score) dt + g dw = (2 u - f x) dt + g dw,    so in s:  drift f x - 2 u, diffusion g

    t is clamped as in `as_ode`, here also where f or g is infinite (RectifiedFlow at t = 1).

    Args:
        denoiser, cond: as in `as_ode`.
        start: the process's time at s = 0, by default t_max.
        sde_type: "ito" or "stratonovich"; one equation, since g does not depend on x. torchsde's adjoint is
            far cheaper for the second, its "srk" needs the first.
        shape: of one sample, where it is not a vector: y (B, d) is seen by the network as (B, *shape).

    Raises ValueError for PerStep conditioning or another sde_type. Cost: one network call for f, none for g.
    Source: Anderson 1982; arXiv 2011.13456, eq. 6.
    """
    return ReverseSDE(denoiser, cond, start, sde_type, shape)
