"""torchsde behind `sample`."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...solvers import DDIM, GivenNoise, Plan
from ...solvers.optional import library
from ..continuous.second_plan import Continuous
from ..continuous.states import States
from ..strategies.gradient import Gradient
from .backsolve import Backsolve
from .base import Bridge, Outside
from .cells import Cells
from .fields import Field, ReverseSDE

TWO_DRAWS = ("srk",)  # methods that also ask for the space-time Levy area of a step


@dataclass(frozen=True)
class TorchSDE(Bridge):
    """The value is torchsde's solution of the reverse SDE at the plan's times; the gradient, along that path,
    of your choice.

    `sample(denoiser, plan, x, noise=Addressed(seed), gradient=TorchSDE())` takes from the stochastic `plan`
    its times only. Every step of the plan is divided into equal steps in t of at most `dt`; the Brownian path
    over them comes from `noise`, slot k for the increment of step k (and steps + k for its Levy area, "srk"),
    so it is replayed at no storage and is the same for a sample in any batch. The diffusion does not depend
    on x: along a path the adjoint needs states only.

    Args:
        method, options: of `torchsde.sdeint`, at fixed steps.
        dt: the longest step, in the process's time; None takes one step between nodes.
        gradient: `Continuous` with a stochastic method that has the reverse SDE's marginals and recorded
            states, or `AdjointDEIS`; `Direct()`, autograd through their solver; `Backsolve()`, their
            `sdeint_adjoint`; None samples only.

    Raises:
        ValueError: a deterministic plan, noise that requires grad or has too few slots (the number of
            steps, twice that for "srk"). FloatingPointError: a state that is not finite. ImportError: no
            torchsde.

    Cost: their steps times 1 call (euler), 2 (midpoint, heun) or 4 (srk), then M replays and VJPs.
    """

    method: str = "srk"
    dt: float | None = None
    options: Mapping[str, Any] | None = field(default=None, hash=False)
    gradient: Gradient | Backsolve | None = field(
        default_factory=lambda: Continuous(method=DDIM(1.0), states=States.RECORDED)
    )

    def __post_init__(self) -> None:
        if self.dt is not None and not self.dt > 0:
            raise ValueError(
                f"TorchSDE: got dt={self.dt}, expected a positive step, or None for one step between nodes"
            )
        self.check_gradient()
        if getattr(self.gradient, "states", States.RECORDED) is States.RESOLVED:
            raise ValueError(
                f"TorchSDE: got {self.gradient}, expected RECORDED states: re-solving follows the plan's "
                "steps"
            )

    def check_plan(self, plan: Plan) -> None:
        if not plan.stochastic:
            raise ValueError(
                f"{self}: got the deterministic {plan.name}, expected a stochastic plan such as DDPM's; or "
                "use TorchDiffEq()"
            )

    def solve(
        self, outside: Outside, field: Field, x: Tensor, times: Sequence[float], step: int
    ) -> list[Tensor]:
        sde = ReverseSDE(outside.model, None, times[0], self._kind(), x.shape[1:], outside.velocity)
        return self._states(
            library("torchsde", "TorchSDE", "ode").sdeint, _Driven(sde, field), x, times, step, outside
        )

    def backsolved(
        self, outside: Outside, adjoint: Backsolve, x: Tensor, times: Sequence[float], step: int
    ) -> list[Tensor]:
        sde = ReverseSDE(
            outside.model, outside.seen(step), times[0], self._kind(), x.shape[1:], outside.velocity
        )
        return self._states(
            library("torchsde", "TorchSDE", "ode").sdeint_adjoint,
            sde,
            x,
            times,
            step,
            outside,
            **adjoint.given(),
        )

    def _kind(self) -> str:
        return "ito" if self.method in ("euler", "milstein", "srk") else "stratonovich"

    def _states(
        self,
        solver: Any,
        sde: Any,
        x: Tensor,
        times: Sequence[float],
        step: int,
        outside: Outside,
        **adjoint: Any,
    ) -> list[Tensor]:
        counts = self._counts(outside.program.plan)
        n, length, noise = counts[step], times[0] - times[1], outside.noise
        assert noise is not None  # the plan is stochastic: `sample` has asked for it
        if step == 0:
            noise.check(sum(counts) * (2 if self.method in TWO_DRAWS else 1), x)
            if isinstance(noise, GivenNoise) and noise.values.requires_grad:
                raise ValueError(
                    f"{self}: got noise that requires grad, expected a source without; use Checkpoint() on "
                    "the plan itself"
                )
        edges = [length * k / n for k in range(n + 1)]
        path = Cells(edges, sum(counts[:step]), sum(counts), noise, x)
        options = None if self.options is None else dict(self.options)
        # a hair longer, so that rounding leaves no sliver of a step at the end
        out = solver(
            sde,
            x.flatten(1),
            torch.tensor([0.0, length], dtype=torch.float64, device=x.device),
            bm=path,
            dt=length / n * (1 + 1e-9),
            method=self.method,
            options=options,
            **adjoint,
        )
        return [out[-1].reshape(x.shape)]

    def _counts(self, plan: Plan) -> list[int]:
        """Steps of the solver in each step of the plan."""
        t = torch.tensor(plan.times, dtype=torch.float64)
        return [
            1 if self.dt is None else math.ceil(width / self.dt - 1e-9) for width in (t[:-1] - t[1:]).tolist()
        ]


class _Driven:
    """The reverse SDE on velocities that a strategy watches; torchsde asks for one up to four times in a step.

    Remembered by identity of the state, for one solve: parameters do not change within it.
    """

    noise_type = "diagonal"

    def __init__(self, sde: ReverseSDE, field: Field) -> None:
        self.sde, self.field, self.sde_type, self.g = sde, field, sde.sde_type, sde.g
        self.last: deque[tuple[float, Tensor, Tensor]] = deque(maxlen=4)

    def f(self, s: Tensor, y: Tensor) -> Tensor:
        at = s.detach().item()
        for before, state, drift in self.last:
            if state is y and before == at:
                return drift
        self.last.append((at, y, self.sde.drift(s, y, self.field)))
        return self.last[-1][2]
