"""The training run: prompts, optimiser, processes, logs, checkpoints, resume. Knows objectives, invents no loss."""

from .adapter import lora, reference_of
from .arithmetic import batch_arithmetic
from .checkpoints import Checkpoints
from .config import TrainConfig
from .files import load_adapter, load_weights, save_adapter, save_weights
from .log import read_log
from .precision import Precision
from .preflight import Preflight
from .prompts import Prompt, Prompts
from .text_prompts import TextPrompts
from .trainer import End, RewardTrainer

__all__ = [
    "Checkpoints", "End", "Precision", "Preflight", "Prompt", "Prompts", "RewardTrainer", "TextPrompts",
    "TrainConfig", "batch_arithmetic", "load_adapter", "load_weights", "lora", "read_log", "reference_of",
    "save_adapter", "save_weights",
]  # fmt: skip
