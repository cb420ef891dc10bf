"""What `face_morph.py` compares: blends, searches and gradients, those at the same number of network calls and VJPs."""

from dataclasses import dataclass

from pullback.adjoint import AdjointDEIS, Checkpoint, Continuous, Gradient, Reversible
from pullback.guidance import (
    BestMorph,
    EndToEnd,
    EqualContrast,
    FlowEncoder,
    GreedyMorph,
    InvertedBlend,
    LatentBlend,
    MorphLoss,
    MorphStrategy,
    PixelBlend,
    StochasticEncoder,
    SumAndDifference,
    adam,
)
from pullback.guidance.morphs import Encoder
from pullback.solvers import DPMSolverPP, Method, Plan, Process, ReversibleHeun, SDEDPMSolverPP, UniformLambda

ENDS = {"start": 1.0, "end": 0.03}
STEPS = 8  # network calls of a run
UPDATES = 16  # of the latent, with the exact gradient by Checkpoint; what they cost is everybody's budget
ENCODER = FlowEncoder(grid=UniformLambda(40, **ENDS))
# both subjects pull, the farther one three times as hard; the published balance, 1, lets the farther one pull alone
LOSS = MorphLoss(SumAndDifference(0.5))
# the mean of both faces at equal contrast, at the best of five weights, encoded: a better start than between latents
START = BestMorph.of_weights(InvertedBlend(averaging=EqualContrast()), 5)
LEASH = 10.0  # weighs the way from that start: what moves it for one recogniser only is noise to the others


@dataclass(frozen=True)
class Entry:
    """One row of the table: how a morph is looked for, and the plan that decodes it."""

    name: str
    strategy: MorphStrategy
    plan: Plan
    encoder: Encoder = ENCODER


def plan_of(process: Process, method: Method = DPMSolverPP(2), steps: int = STEPS) -> Plan:
    return method.plan(process, UniformLambda(steps, **ENDS))


def searched(gradient: Gradient, plan: Plan, start: MorphStrategy = START) -> EndToEnd:
    """The latent moved by `gradient`, as often as the budget allows."""
    exact, own = (sum(each.cost(plan)) for each in (Checkpoint(), gradient))
    return EndToEnd(
        start=start, gradient=gradient, optimiser=adam(0.03), steps=round(UPDATES * exact / own), leash=LEASH
    )


def gradients(process: Process) -> dict[str, Entry]:
    """By the name of `--gradient`."""
    ode, stochastic = plan_of(process), plan_of(process, SDEDPMSolverPP(2))
    reversible = plan_of(process, ReversibleHeun(), STEPS - 1)  # one call more than steps
    return {
        "checkpoint": Entry("Checkpoint", searched(Checkpoint(), ode), ode),
        "reversible": Entry("Reversible", searched(Reversible(), reversible), reversible),
        "continuous": Entry("Continuous", searched(Continuous(), ode), ode),
        "adjointdeis": Entry("AdjointDEIS, ODE", searched(AdjointDEIS(), ode), ode),
        "adjointdeis-sde": Entry(
            "AdjointDEIS, SDE", searched(AdjointDEIS(), stochastic), stochastic, StochasticEncoder()
        ),
    }


def entries(process: Process) -> list[Entry]:
    """The rows of the table: what costs nothing first."""
    plan = plan_of(process)
    rows = {
        "pixel mean": PixelBlend(),
        "pixel mean, best of 9": BestMorph.of_weights(PixelBlend()),
        "slerp": LatentBlend(),
        "slerp, best of 9": BestMorph.of_weights(LatentBlend()),
        "Greedy": GreedyMorph(start=START, rounds=4, lr=0.03),
    }
    return [Entry(name, strategy, plan) for name, strategy in rows.items()] + [*gradients(process).values()]
