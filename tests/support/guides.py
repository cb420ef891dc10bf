"""One or more of every public guide on a small problem: a new class is enrolled by a line here, and missed if
it has none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pullback import guidance
from pullback.guidance import (
    DAPS,
    DDNM,
    DPS,
    LGD,
    MCG,
    MPGD,
    SNR,
    TFG,
    TMPD,
    ClassifierGuidance,
    Context,
    DataGuidance,
    DiffPIR,
    FlowChef,
    FreeDoM,
    Greedy,
    Guide,
    Lookahead,
    Matrix,
    Measurement,
    PiGDM,
    Raw,
    REDdiff,
    ScoreRatio,
    Travel,
    Unit,
    Universal,
    Window,
)
from pullback.guidance.guides.guide import Together
from pullback.solvers import DDIM, VP, Mixture, UniformLambda

PROCESS = VP()
DIM = 4
_draw = torch.Generator().manual_seed(5)
_half = torch.randn(3, DIM, DIM, generator=_draw, dtype=torch.float64) / 2
PRIOR = Mixture(
    torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
    torch.randn(3, DIM, generator=_draw, dtype=torch.float64),
    _half @ _half.mT + 0.05 * torch.eye(DIM, dtype=torch.float64),
)
MATRIX = torch.randn(2, DIM, generator=_draw, dtype=torch.float64)
Y = torch.randn(1, 2, generator=_draw, dtype=torch.float64)
SEEN = Measurement(Matrix(MATRIX), Y, 0.3)
MODEL = PRIOR.denoiser(PROCESS)
ENDS = {"start": 0.98, "end": 0.03}
PLAN = DDIM(0.8).plan(PROCESS, UniformLambda(8, **ENDS))
SEEN_NONLINEAR = Measurement(guidance.NonLinear(torch.tanh), Y.expand(1, 2).repeat(1, 2), 0.3)


def log_prob(x: Tensor, t: Tensor) -> Tensor:
    return -(x - t[:, None]).square().sum(1)


GUIDES: Mapping[type[Guide], Sequence[Guide]] = {
    ClassifierGuidance: [ClassifierGuidance(log_prob, 0.1)],
    DAPS: [DAPS(SEEN, 3), DAPS(SEEN_NONLINEAR, 1, langevin=3)],
    DDNM: [DDNM(SEEN)],
    DPS: [DPS(SEEN), DPS(SEEN, Unit(0.1)), DPS(SEEN, ScoreRatio(0.1))],
    DataGuidance: [DataGuidance(SEEN.nats, SNR(0.3)), DataGuidance(SEEN.nats)],
    DiffPIR: [DiffPIR(SEEN), DiffPIR(SEEN, zeta=1.0)],
    FlowChef: [FlowChef(SEEN, Raw(0.05)), FlowChef(SEEN.nats)],
    FreeDoM: [FreeDoM(SEEN, travels=2), FreeDoM(SEEN, travels=3, start=0.2, stop=0.6)],
    Greedy: [Greedy(SEEN, 5)],
    LGD: [LGD(SEEN.nats, 3)],
    Lookahead: [Lookahead(SEEN.nats, k) for k in (0, 1, 2, 3, 8)] + [Lookahead(SEEN.nats, 1, agree=0.99)],
    MCG: [MCG(SEEN, guidance.Residual(0.2))],
    MPGD: [MPGD(SEEN.nats), MPGD(SEEN, Raw(0.1)), MPGD(SEEN, Raw(0.1), lambda x: x / (1 + x.square()))],
    PiGDM: [PiGDM(SEEN), PiGDM(SEEN, policy=guidance.PiGDMWeight())],
    REDdiff: [REDdiff(SEEN)],
    TFG: [
        TFG(SEEN, Raw(0.1), Raw(0.05), 2, 3, travels=2),
        TFG.mpgd(SEEN, Raw(0.1)),
        TFG.universal(SEEN, Raw(0.1), Raw(0.1), 2, 2),
    ],
    TMPD: [TMPD(SEEN)],
    Travel: [TMPD(SEEN) + Travel(2, 0.3, 0.8)],
    Universal: [Universal(SEEN, Raw(0.1), Raw(0.1), 2, 2), Universal(SEEN.nats)],
    Together: [TMPD(SEEN) + FlowChef(SEEN, Raw(0.05)) + LGD(SEEN.nats, 2).during(0.2, 0.7)],
    Window: [Window(FreeDoM(SEEN, travels=2), 0.3, 0.8)],
}
EVERY = [guide for guides in GUIDES.values() for guide in guides]


@dataclass(frozen=True, eq=False)
class Spy(Guide):
    """Hands each call's context to `look`, and changes nothing."""

    look: object
    differentiates = True

    def data(self, ctx: Context, data: Tensor) -> Tensor:
        self.look(ctx)  # type: ignore[operator]
        return data


def named(guide):
    return type(guide).__name__
