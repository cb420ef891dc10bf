"""The training run: prompts, optimiser, processes, logs, checkpoints, resume. Knows objectives, invents no loss."""

from .adapter import load_adapter, load_weights, lora, reference_of, save_adapter, save_weights
from .checkpoints import Checkpoints
from .config import Precision, TrainConfig, batch_arithmetic
from .log import read_log
from .preflight import Preflight
from .prompts import Prompt, Prompts
from .trainer import End, RewardTrainer

__all__ = [
    "Checkpoints", "End", "Precision", "Preflight", "Prompt", "Prompts", "RewardTrainer", "TrainConfig",
    "batch_arithmetic", "load_adapter", "load_weights", "lora", "read_log", "reference_of", "save_adapter",
    "save_weights",
]  # fmt: skip
