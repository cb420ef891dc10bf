"""Problems and enrolment shared by the laws."""

import math
from collections.abc import Sequence

import pytest
import torch

from pullback import solvers
from pullback.solvers import (
    BDIA,
    DATA,
    DDIM,
    DDPM,
    DEIS,
    ERSDE,
    GHVB,
    LMS,
    MRS,
    NOISE,
    RK4,
    SEEDS,
    VP,
    Ancestral,
    CorrectorMode,
    Coupled,
    DPMSolver,
    DPMSolverFast,
    DPMSolverPP,
    DPMSolverPPFast,
    DPMSolverPPSingle,
    DPMSolverSingle,
    DPMSolverV3,
    DriftMethod,
    EDMHeun,
    Ends,
    Eta,
    FlowAdams,
    FlowMidpoint,
    FlowSDE,
    LangevinCorrected,
    Method,
    Mixture,
    OnData,
    OnDataOnly,
    PhaseMethod,
    PosteriorVariance,
    Restart,
    Reverse,
    ReversibleHeun,
    Rex,
    RhoRK,
    SASolver,
    SDEDPMSolverPP,
    Stages,
    StochasticFlow,
    UniPC,
)
from pullback.solvers.methods.unipc import BVariant

# Test A: three Gaussians in the plane
MIXTURE = Mixture.isotropic(
    torch.tensor([0.3, 0.45, 0.25], dtype=torch.float64),
    torch.tensor([[1.0, 0.3], [-0.8, 0.9], [0.2, -1.1]], dtype=torch.float64),
    torch.tensor([0.35, 0.45, 0.3], dtype=torch.float64),
)

WRAPPERS: list[type[Method]] = [OnData, OnDataOnly]

VARIANTS: dict[type[Method], Sequence[Method]] = {
    Ancestral: [Ancestral(DDIM(), 0.6), Ancestral(DPMSolverPPSingle(3))],
    DDIM: [DDIM(), DDIM(0.5), DDIM(1.0)],
    DDPM: [DDPM(), DDPM(PosteriorVariance.LARGE)],
    LangevinCorrected: [LangevinCorrected(DDPM()), LangevinCorrected(DPMSolverPP(2), snr=0.05, times=2)],
    SEEDS: [SEEDS(2), SEEDS(3), SEEDS(3, NOISE), SEEDS(2, NOISE, tau=0.0)],
    DEIS: [DEIS(k, starter=True) for k in (1, 2, 3, 4)] + [DEIS(3)],
    DPMSolverPP: [DPMSolverPP(k, exact=e, starter=True) for k in (1, 2, 3) for e in (False, True)]
    + [DPMSolverPP(3)],
    DPMSolver: [DPMSolver(2, starter=True), DPMSolver(3, exact=True, starter=True)],
    DPMSolverSingle: [DPMSolverSingle(2, exact=True, r1=0.3), DPMSolverSingle(3)],
    DPMSolverFast: [DPMSolverFast(0)],
    DPMSolverPPFast: [DPMSolverPPFast(2)],
    DPMSolverV3: [DPMSolverV3(corrector=4, starter=True)],
    LMS: [LMS(4, starter=True)],
    GHVB: [GHVB(1.8), GHVB(3.8, starter=True)],
    RhoRK: [RhoRK(RK4)],
    DPMSolverPPSingle: [DPMSolverPPSingle(2), DPMSolverPPSingle(2, exact=True), DPMSolverPPSingle(3)],
    Coupled: [
        Coupled(zeta=0.5),
        Coupled(zeta=1.0),
        Coupled(DPMSolverPPSingle(2), zeta=0.99),
        Coupled(FlowMidpoint()),
    ],
    Rex: [
        Rex(zeta=0.5),
        Rex(zeta=1.0),
        Rex(Stages.MIDPOINT),
        Rex(Stages.SHARK),
        *(Rex(s, sde=True, zeta=0.5 if s is Stages.EULER else 0.999) for s in Stages),
    ],
    MRS: [MRS(), MRS(2, NOISE), *(MRS(2, want, Reverse.SDE) for want in (NOISE, DATA))],
    BDIA: [BDIA(), BDIA(0.5)],
    ReversibleHeun: [ReversibleHeun(), ReversibleHeun(noise_side=True), ReversibleHeun(tau=1.0)],
    FlowAdams: [FlowAdams(k, starter=True) for k in (1, 2, 3, 4)] + [FlowAdams(3)],
    FlowSDE: [FlowSDE(), FlowSDE(math.sqrt(2))],
    EDMHeun: [EDMHeun(), EDMHeun(10.0)],
    SDEDPMSolverPP: [SDEDPMSolverPP(1), SDEDPMSolverPP(2), SDEDPMSolverPP(2, exact=True), SDEDPMSolverPP(3)]
    + [SDEDPMSolverPP(2, tau=Eta(0.6))],
    ERSDE: [ERSDE(k, phi=1.0, starter=True) for k in (1, 2, 3)]
    + [ERSDE(k, phi=2.0) for k in (1, 2, 3)]
    + [ERSDE(2)],
    Ends: [
        Ends(DPMSolverPP(2, starter=True), tail=(DDIM(),)),
        Ends(DEIS(3), 2 * (DPMSolverPPSingle(3),), (DPMSolverPP(2),)),
        Ends(SDEDPMSolverPP(2), tail=(DDIM(1.0),)),
    ],
    Restart: [Restart(EDMHeun()), Restart(DPMSolverPPSingle(3), times=2), Restart(DDIM())],
    SASolver: [
        SASolver(p, c, tau=0.0, starter=True) for p, c in ((1, 0), (1, 2), (2, 0), (2, 3), (3, 4), (4, 0))
    ]
    + [SASolver(p, c) for p, c in ((1, 0), (2, 0), (3, 0), (2, 3), (3, 4))]
    + [
        SASolver(2, 3, evaluation=CorrectorMode.PECE),
        SASolver(2, 2, tau=0.0, evaluation=CorrectorMode.PECE, starter=True),
    ],
    StochasticFlow: [StochasticFlow(0.1)],
    UniPC: [
        UniPC(p, v, c, starter=True)
        for p in (1, 2, 3)
        for v in (BVariant.BH1, BVariant.BH2)
        for c in (False, True)
    ]
    + [UniPC(), UniPC(2, BVariant.EXACT, starter=True), UniPC(4, starter=True)],
}


def every_method() -> list[Method]:
    """Every public method in every variant: a new one is enrolled by its import in `solvers/__init__`.

    WRAPPERS of other methods have laws of their own over all of these; so have the methods of position and momentum
    (tests/solvers/test_phase_space.py) and of equations of one's own (tests/solvers/test_neural.py).
    """
    classes = list(vars(solvers).values())
    concrete = [
        c
        for c in classes
        if isinstance(c, type)
        and issubclass(c, Method)
        and c not in (Method, *WRAPPERS)
        and not issubclass(c, (DriftMethod, PhaseMethod))
    ]
    return [m for c in concrete for m in (VARIANTS.get(c) or [c()])]


def same_order(method: Method) -> bool:
    """Whether the method reaches its order from the first step on."""
    return getattr(method, "starter", True)


def slots_of(method: Method, steps: int) -> int:
    """Noise slots of a stochastic method on a grid through every level: one a step (ShARK two, SEEDS one a stage,
    Langevin steps one each), or one a restart.
    """
    if isinstance(method, Restart):
        return method.times
    if isinstance(method, SEEDS):
        return method.stages * steps
    if isinstance(method, LangevinCorrected):
        return (method.times + method.base.stochastic) * steps
    return 2 * steps if isinstance(method, Rex) and method.stages is Stages.SHARK else steps


def warped(n: int, low: float = -2.0, high: float = 2.5) -> torch.Tensor:
    """n + 1 smoothly warped lambdas."""
    u = torch.linspace(0, 1, n + 1, dtype=torch.float64)
    u = u + 0.15 * torch.sin(math.pi * u) * u
    return low + (high - low) * u


PROCESS = VP()


def thinned(cases):
    """Every third case in the default suite, the others in `make test-all`: for long laws that another law
    covers in part.
    """
    return [
        case if k % 3 == 0 else pytest.param(case, marks=pytest.mark.slow) for k, case in enumerate(cases)
    ]
