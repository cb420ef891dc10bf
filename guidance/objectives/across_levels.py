"""The reward at the samples of a fine grid, by weighted samples of several grids."""

from collections.abc import Iterator

from ...adjoint import Gradient, GridLevels, sample_multilevel
from ...adjoint.multilevel.rows import rows_of
from ...solvers import Addressed
from ...solvers.kinds import described
from ..rewards.asked import evaluate_reward
from ..rewards.base import RewardFunction
from .objective import Batch, LossTerm, Policy


def reward_across_levels(
    levels: GridLevels, policy: Policy, batch: Batch, reward: RewardFunction, gradient: Gradient
) -> Iterator[LossTerm]:
    """-mean r at the finest level's samples: its expectation and its gradient's, from runs on `levels`.

    A figure of one start, here too, is an estimate that may lie far outside the reward's range.
    """
    source = batch.noise if isinstance(batch.noise, Addressed) else batch.source
    if source is None:
        raise ValueError(
            f"levels: got a batch with noise {described(batch.noise)} and no source, expected addresses, by which "
            "levels and paths are drawn; pass Batch(..., source=Addressed(seed, ids))"
        )
    drawn = sample_multilevel(
        policy.denoiser, levels, batch.x, noise=source, cond=batch.cond, gradient=gradient
    )
    context = rows_of(batch.context, drawn.owners, len(batch), "context")
    values = evaluate_reward(reward, drawn.samples, context, differentiable=True)
    mean = drawn.mean(values)
    yield LossTerm(-mean, {"reward": float(mean.detach())}, drawn.each(values.detach()))


def check_levels(levels: GridLevels, policy: Policy, kl: float, who: object) -> None:
    """Raise ValueError where an objective with `levels` asks for what belongs to one grid."""
    name = type(who).__name__
    if kl:
        raise ValueError(
            f"{name}: got levels and kl={kl}, expected kl=0: a path KL is that of one grid's steps; leave one of them "
            "out"
        )
    if levels.process != policy.plan.process:
        raise ValueError(
            f"{name}: got levels of {levels.process} for a plan of {policy.plan.process}, expected one process; make "
            "both from denoiser.process"
        )
