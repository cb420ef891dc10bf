"""What an adjoint on another grid than the run's cannot give, and the states it cannot take."""

from collections.abc import Sequence

from ...solvers import GivenNoise, Plan
from ..replay.rollout import Registers, Rollout
from ..strategies.gradient import Gradient
from .adjoint_grid import AdjointGrid
from .states import States


def refuse_decoupled(strategy: Gradient, states: States, rollout: Rollout, grid: AdjointGrid) -> None:
    """Raise ValueError where `grid` is not the run's and something belongs to a single step of the run."""
    if grid.is_the_runs:
        return
    plan, n, steps = rollout.program.plan, len(grid.times) - 1, grid.steps
    met = {grid.opens(k) for k in range(steps + 1)}
    lost = sorted(set(rollout.at) - met)
    if lost:
        raise ValueError(
            f"{strategy}: got losses at the states of steps {lost}, expected steps that the "
            f"{steps} intervals of the adjoint meet; use steps=None"
        )
    if rollout.controls is not None and rollout.controls.requires_grad:
        raise ValueError(
            f"{strategy}: got controls that require grad, one for each of {n} steps, expected steps={n} or None"
        )
    if isinstance(rollout.noise, GivenNoise) and rollout.noise.values.requires_grad:
        raise ValueError(
            f"{strategy}: got noise that requires grad, one for each of {n} steps, expected steps={n} or None"
        )
    if plan.stochastic and states is States.RESOLVED:
        raise ValueError(
            f"{strategy}: got re-solved states of a stochastic run of {n} steps, expected steps={n} or "
            "None: the noise is known step by step only"
        )
    if steps > n and states is States.RECORDED:
        raise ValueError(
            f"{strategy}: got steps={steps} for a run of {n} with recorded states, expected at most {n}; "
            "use States.RESOLVED or INTEGRATED"
        )


def refuse_registers(strategy: Gradient, registers: Registers) -> None:
    """Raise ValueError where more than the state is to get a gradient: a flow has no history."""
    more = [name for name, value in registers.items() if value.requires_grad and name != "x"]
    if more:
        raise ValueError(
            f"{strategy}: got register {more[0]!r} that requires grad, expected x alone: the history of a plan is "
            "not part of its flow; detach it, or use Checkpoint()"
        )


def refuse_unpredicted(plan: Plan, states: States, predicted: int, grid: AdjointGrid) -> None:
    """Raise ValueError where states are to be integrated and fewer nodes than the grid's have a prediction."""
    if states is States.INTEGRATED and predicted < len(grid.times) - 1:
        raise ValueError(
            f"States.INTEGRATED: got {plan.name}, which does not predict at every node; use States.RECORDED"
        )


def refuse_pure_noise(strategy: Gradient, plan: Plan, times: Sequence[float]) -> None:
    """Raise ValueError where alpha is 0 at one of `times`: 1/alpha scales the adjoint."""
    pure = [t for t in times if not float(plan.process.alpha(t)) > 0]
    if pure:
        raise ValueError(
            f"{strategy}: got a grid with alpha = 0 at t={pure[0]:g}, where 1/alpha is infinite, expected alpha > 0; "
            "end it before, or use Continuous()"
        )


def refuse_without_diffusion(strategy: Gradient, plan: Plan) -> None:
    """Raise ValueError where the steps of `plan` tend to no equation as they shrink."""
    if plan.order < 1:
        raise ValueError(
            f"{strategy}: got {plan.name}, whose steps follow no diffusion, expected those of an ODE or SDE; use "
            "Checkpoint()"
        )
