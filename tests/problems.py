"""Problems and enrolment shared by the laws."""

import math
from collections.abc import Sequence

import torch
from pullback import solvers
from pullback.solvers import (
    DDIM,
    DEIS,
    VP,
    BVariant,
    DPMSolverPP,
    DPMSolverPPSingle,
    Evaluation,
    FlowAdams,
    Method,
    Mixture,
    SASolver,
    UniPC,
)

# Test A: three Gaussians in the plane
MIXTURE = Mixture.isotropic(
    torch.tensor([0.3, 0.45, 0.25], dtype=torch.float64),
    torch.tensor([[1.0, 0.3], [-0.8, 0.9], [0.2, -1.1]], dtype=torch.float64),
    torch.tensor([0.35, 0.45, 0.3], dtype=torch.float64),
)

VARIANTS: dict[type[Method], Sequence[Method]] = {
    DDIM: [DDIM(), DDIM(0.5), DDIM(1.0)],
    DEIS: [DEIS(k, starter=True) for k in (1, 2, 3, 4)] + [DEIS(3)],
    DPMSolverPP: [DPMSolverPP(k, exact=e, starter=True) for k in (1, 2, 3) for e in (False, True)] + [DPMSolverPP(3)],
    DPMSolverPPSingle: [DPMSolverPPSingle(2), DPMSolverPPSingle(2, exact=True), DPMSolverPPSingle(3)],
    FlowAdams: [FlowAdams(k, starter=True) for k in (1, 2, 3, 4)] + [FlowAdams(3)],
    SASolver: [SASolver(p, c, tau=0.0, starter=True) for p, c in ((1, 0), (1, 2), (2, 0), (2, 3), (3, 4), (4, 0))]
    + [SASolver(p, c) for p, c in ((1, 0), (2, 0), (3, 0), (2, 3), (3, 4))]
    + [SASolver(2, 3, evaluation=Evaluation.PECE), SASolver(2, 2, tau=0.0, evaluation=Evaluation.PECE, starter=True)],
    UniPC: [UniPC(p, v, c, starter=True) for p in (1, 2, 3) for v in BVariant for c in (False, True)] + [UniPC()],
}


def every_method() -> list[Method]:
    """Every public method in every variant: a new one is enrolled by its import in `solvers/__init__`."""
    classes = list(vars(solvers).values())
    concrete = [c for c in classes if isinstance(c, type) and issubclass(c, Method) and c is not Method]
    return [m for c in concrete for m in (VARIANTS.get(c) or [c()])]


def same_order(method: Method) -> bool:
    """Whether the method reaches its order from the first step on."""
    return getattr(method, "starter", True)


def warped(n: int, low: float = -2.0, high: float = 2.5) -> torch.Tensor:
    """n + 1 smoothly warped lambdas."""
    u = torch.linspace(0, 1, n + 1, dtype=torch.float64)
    u = u + 0.15 * torch.sin(math.pi * u) * u
    return low + (high - low) * u


PROCESS = VP()
