"""What samples are worth: (samples, context) to (B,). Knows neither the sampler nor who asks."""

from .asked import evaluate_reward
from .base import FunctionReward, Reward, RewardFunction
from .clip import Aesthetic, CLIPScore, PickScore, Preprocess
from .decoded import DecodedReward
from .exact import LinearReward, QuadraticReward
from .image import Brightness, JPEGSize, Saturation
from .network import ClassifierReward, EmbeddingSimilarity

__all__ = [
    "Aesthetic", "Brightness", "CLIPScore", "ClassifierReward", "DecodedReward", "EmbeddingSimilarity",
    "FunctionReward", "JPEGSize", "LinearReward", "PickScore", "Preprocess", "QuadraticReward", "Reward",
    "RewardFunction", "Saturation", "evaluate_reward",
]  # fmt: skip
