"""What a trainer is given, by kind."""

from ...adjoint.arguments import check_model_and_plan
from ...solvers.kinds import check_kind, described
from ..objectives.objective import Objective
from .config import TrainConfig
from .prompts import Prompts


def check_trainer(
    denoiser: object, plan: object, objective: object, reward: object, prompts: object, config: object
) -> None:
    """Raise TypeError where an argument of `RewardTrainer` is of another kind."""
    check_model_and_plan(denoiser, plan)
    check_kind("objective", objective, Objective, "an objective; write DRaFT() or DDPO(...)")
    if isinstance(reward, type) or not callable(reward):
        raise TypeError(
            f"reward: got {described(reward)}, expected a function of (samples, context) to (B,); pass lambda x, "
            "context: ..., or a Reward()"
        )
    check_kind("prompts", prompts, Prompts, "Prompts; write Prompts([Prompt(cond, context)], shape)")
    check_kind("config", config, TrainConfig, "a TrainConfig; write TrainConfig(out, iterations)")
