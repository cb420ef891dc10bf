"""What the gradient is for: optimising what enters a sampler."""

from .optimise import Over, Result, Stop, adam, optimise
from .priors import ChiPrior, NormPrior, Prior
from .reward import FunctionReward, Reward
from .reward_clip import Aesthetic, AestheticHead, CLIPScore, PickScore, Preprocess
from .reward_image import Brightness, JPEGSize, Saturation
from .reward_network import ClassifierReward, EmbeddingSimilarity
from .reward_toy import Linear, Quadratic

__all__ = [
    "Aesthetic", "AestheticHead", "Brightness", "CLIPScore", "ChiPrior", "ClassifierReward", "EmbeddingSimilarity",
    "FunctionReward", "JPEGSize", "Linear", "NormPrior", "Over", "PickScore", "Preprocess", "Prior", "Quadratic", "Result",
    "Reward", "Saturation", "Stop", "adam", "optimise",
]  # fmt: skip
