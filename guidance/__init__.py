"""What the gradient is for: optimising what enters a sampler, and changing its weights by a reward."""

from .adapter import AdapterOff, load_adapter, load_weights, lora, save_adapter, save_weights
from .checkpoint import Checkpoints
from .config import Arithmetic, Precision, TrainConfig, solve
from .divergence import Divergence, diverge
from .evaluate import Evaluation
from .objective import Batch, Experience, Loss, Objective, Policy, Reward, World
from .optimise import Over, Result, Stop, adam, optimise
from .preflight import Preflight
from .priors import ChiPrior, NormPrior, Prior
from .prompts import Prompt, Prompts
from .trainer import End, RewardTrainer

__all__ = [
    "AdapterOff", "Arithmetic", "Batch", "Checkpoints", "ChiPrior", "Divergence", "End", "Evaluation", "Experience", "Loss",
    "NormPrior", "Objective", "Over", "Policy", "Precision", "Preflight", "Prior", "Prompt", "Prompts", "Result", "Reward",
    "RewardTrainer", "Stop", "TrainConfig", "World", "adam", "diverge", "load_adapter", "load_weights", "lora", "optimise",
    "save_adapter", "save_weights", "solve",
]  # fmt: skip
