"""torchdiffeq behind `sample`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...solvers import Plan
from ...solvers.optional import library
from ...solvers.wanted import Finite
from ..continuous.second_plan import Continuous
from ..continuous.states import States
from ..strategies.gradient import Gradient
from .backsolve import Backsolve
from .base import Bridge, Outside
from .fields import Field, as_ode

ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")


@dataclass(frozen=True)
class TorchDiffEq(Bridge):
    """The value is torchdiffeq's solution of the probability-flow ODE, at the plan's times; the gradient is
    of your choice.

    `sample(denoiser, plan, x, gradient=TorchDiffEq())` takes from `plan` its times only: torchdiffeq solves
    from the first to the last in one go (node by node where controls or PerStep conditioning enter) and its
    states at the nodes are what the adjoint sees. The default transposes a second plan on that grid, so that
    the gradient costs as many calls as the plan has steps, whatever the tolerance of the value. Times are
    clamped as in `as_ode`. Fixed-step methods take one step between nodes unless `options` says otherwise.

    Args:
        method, rtol, atol, options: of `torchdiffeq.odeint`.
        gradient: `Continuous` with recorded or re-solved states, `AdjointDEIS`; `Direct()`, autograd through
            their solver, step sizes held constant, every activation kept; `Backsolve()`, their
            `odeint_adjoint`; None samples only.

    Raises:
        ValueError: a stochastic plan, a grid per sample, a strategy that would transpose the plan itself.
        FloatingPointError: a step size that vanishes, a state that is not finite. ImportError: no
            torchdiffeq.

    Cost: what their solver takes (dopri5 at 1e-5: 50 to 200 calls), then M replays and VJPs.
    """

    method: str = "dopri5"
    rtol: Finite = 1e-5
    atol: Finite = 1e-5
    options: Mapping[str, Any] | None = field(default=None, hash=False)
    gradient: Gradient | Backsolve | None = field(default_factory=lambda: Continuous(states=States.RECORDED))

    def __post_init__(self) -> None:
        if not (self.rtol > 0 and self.atol > 0):
            raise ValueError(
                f"TorchDiffEq: got rtol={self.rtol}, atol={self.atol}, expected positive tolerances"
            )
        self.check_gradient()

    def check_plan(self, plan: Plan) -> None:
        if plan.stochastic:
            raise ValueError(
                f"{self}: got the stochastic {plan.name}, expected a deterministic plan; use TorchSDE()"
            )

    def solve(
        self, outside: Outside, field: Field, x: Tensor, times: Sequence[float], step: int
    ) -> list[Tensor]:
        options = {"norm": _root_mean_square, **(self.options or {})}
        norm = options["norm"]
        # the only way into step sizes, which are constants: times have no gradient here to go with theirs
        options["norm"] = lambda v: norm(v.detach())
        # else these step past the end, maybe past the process's, and interpolate back
        if self.method in ADAPTIVE:
            options.setdefault("step_t", torch.tensor(times[-1:], dtype=torch.float64, device=x.device))
        return self._states(
            library("torchdiffeq", "TorchDiffEq", "ode").odeint,
            lambda t, x: field(t.detach().item(), x),
            x,
            times,
            options,
        )

    def backsolved(
        self, outside: Outside, adjoint: Backsolve, x: Tensor, times: Sequence[float], step: int
    ) -> list[Tensor]:
        field = as_ode(outside.model, outside.seen(step))
        options = None if self.options is None else dict(self.options)
        return self._states(
            library("torchdiffeq", "TorchDiffEq", "ode").odeint_adjoint,
            field,
            x,
            times,
            options,
            **adjoint.given(),
        )

    def _states(
        self,
        solver: Any,
        field: Any,
        x: Tensor,
        times: Sequence[float],
        options: dict[str, Any] | None,
        **adjoint: Any,
    ) -> list[Tensor]:
        try:
            nodes = torch.tensor(times, dtype=torch.float64, device=x.device)
            path = solver(
                field,
                x,
                nodes,
                method=self.method,
                rtol=self.rtol,
                atol=self.atol,
                options=options,
                **adjoint,
            )
        except ValueError as failed:
            if "Invalid method" not in str(failed):
                raise
            raise ValueError(
                f"method: got {self.method!r}, expected one of torchdiffeq's, such as 'dopri5' or 'rk4' ({failed})"
            ) from failed
        except AssertionError as failed:
            if not any(word in str(failed) for word in ("underflow", "non-finite")):
                raise
            raise FloatingPointError(
                f"{self}: the step size vanished between t={times[0]:.6g} and {times[-1]:.6g}: the velocity "
                "is not finite there or too rough for the tolerance; check the network, or end the grid "
                "earlier"
            ) from failed
        return list(path[1:])


def _root_mean_square(v: Tensor) -> Tensor:
    return v.square().mean().sqrt()
