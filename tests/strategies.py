"""Every strategy with a plan it runs on, and a small problem with every kind of input, shared by the sweeps."""

import torch
from problems import PROCESS
from pullback.adjoint import AdjointDEIS, Checkpoint, Continuous, Direct, Gradient, Mechanism, Reversible, Truncated
from pullback.solvers import DPMSolverPP, Method, Plan, ReversibleHeun, UniformT
from torch import nn

STRATEGIES: list[Gradient] = [
    Direct(), Checkpoint(), Checkpoint(mechanism=Mechanism.REGION), Checkpoint(offload=True),
    Checkpoint(offload=True, mechanism=Mechanism.REGION), Truncated(3), Truncated(9, inner=Direct()),
    Truncated(3, inner=Reversible()), Reversible(), Continuous(), AdjointDEIS(),
]  # fmt: skip
REPLAYING = [s for s in STRATEGIES if "Direct" not in str(s)]
ESTIMATES = [s for s in STRATEGIES if isinstance(s, (Continuous, AdjointDEIS))]
EXACT = [s for s in STRATEGIES if s not in ESTIMATES]


def plan_for(strategy: Gradient, steps: int = 4) -> Plan:
    """A plan that `strategy` can differentiate; grids that end above t = 0."""
    method: Method = ReversibleHeun() if "Reversible" in str(strategy) else DPMSolverPP(2)
    return method.plan(PROCESS, UniformT(steps, start=0.9, end=0.05))


def plain(strategy: Gradient) -> Gradient:
    """What an exact strategy must equal."""
    return Truncated(3, inner=Direct()) if isinstance(strategy, Truncated) and strategy.last == 3 else Direct()


class Timed(nn.Module):
    """A network of x and t around any module."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.inner(torch.cat([x, t[:, None]], 1))


def network(*middle: nn.Module) -> Timed:
    """Three features in and out, with `middle` between its layers."""
    return Timed(nn.Sequential(nn.Linear(4, 8), nn.SiLU(), *middle, nn.Linear(8, 3)))
