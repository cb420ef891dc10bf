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


def searched(gradient: Gradient, plan: Plan, updates: int) -> EndToEnd:
    """The latent moved by `gradient`, at the calls and VJPs of `updates` exact gradients by Checkpoint."""
    exact, own = (sum(each.cost(plan)) for each in (Checkpoint(), gradient))
    steps = max(1, round(updates * exact / own))
    return EndToEnd(start=START, gradient=gradient, optimiser=adam(0.03), steps=steps, leash=LEASH)


def gradients(process: Process, updates: int) -> dict[str, Entry]:
    """By the name of `--gradient`."""
    ode, stochastic = plan_of(process), plan_of(process, SDEDPMSolverPP(2))
    reversible = plan_of(process, ReversibleHeun(), STEPS - 1)  # one call more than steps
    return {
        "checkpoint": Entry("Checkpoint", searched(Checkpoint(), ode, updates), ode),
        "reversible": Entry("Reversible", searched(Reversible(), reversible, updates), reversible),
        "continuous": Entry("Continuous", searched(Continuous(), ode, updates), ode),
        "adjointdeis": Entry("AdjointDEIS, ODE", searched(AdjointDEIS(), ode, updates), ode),
        "adjointdeis-sde": Entry(
            "AdjointDEIS, SDE", searched(AdjointDEIS(), stochastic, updates), stochastic, StochasticEncoder()
        ),
    }


def entries(process: Process, updates: int) -> list[Entry]:
    """The rows of the table; first what the others are measured by."""
    plan = plan_of(process)
    rows = {
        "pixel mean, best of 9": BestMorph.of_weights(PixelBlend()),
        "pixel mean": PixelBlend(),
        "slerp": LatentBlend(),
        "slerp, best of 9": BestMorph.of_weights(LatentBlend()),
        "Greedy": GreedyMorph(start=START, rounds=max(1, updates // STEPS), lr=0.03),
    }
    return [Entry(name, strategy, plan) for name, strategy in rows.items()] + [
        *gradients(process, updates).values()
    ]
