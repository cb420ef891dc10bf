"""What the gradient is for: optimising what enters a sampler, fine-tuning it to a reward."""

from .adjoint_matching import AdjointMatching
from .advantages import Advantages, OverBatch, OverGroup, PerPrompt, Scale, batch_advantages, group_advantages
from .alignprop import AlignProp, Cut, NormalCut, UniformCut
from .chain import Chain, visited
from .dance_grpo import DanceGRPO
from .ddpo import DDPO, Estimator
from .direct import pathwise_kl
from .dpok import DPOK, Critic, StateValue
from .draft import DRaFT
from .draft_lv import DRaFTLV
from .flow_grpo import FlowGRPO
from .lean_adjoint import Pairing, adjoint_matching_loss, adjoint_path
from .likelihood import gaussian_kl, gaussian_logprob
from .memory import memory, memoryless
from .objective import Batch, Experience, Loss, Objective, Policy, World
from .optimise import Over, Result, Stop, adam, optimise
from .path_kl import KL, path_kl, path_kl_loss, per_step_kl_loss, to_go
from .priors import ChiPrior, NormPrior, Prior
from .ratio import clamped_loss, ppo_clip_loss, score_loss
from .refl import ReFL
from .reward import FunctionReward, Reward
from .reward_clip import Aesthetic, AestheticHead, CLIPScore, PickScore, Preprocess
from .reward_image import Brightness, JPEGSize, Saturation
from .reward_network import ClassifierReward, EmbeddingSimilarity
from .reward_toy import Linear, Quadratic
from .score import score

__all__ = [
    "DDPO", "DPOK", "KL", "AdjointMatching", "Advantages", "Aesthetic", "AestheticHead", "AlignProp", "Batch", "Brightness",
    "CLIPScore", "Chain", "ChiPrior", "ClassifierReward", "Critic", "Cut", "DRaFT", "DRaFTLV", "DanceGRPO", "EmbeddingSimilarity",
    "Estimator", "Experience", "FlowGRPO", "FunctionReward", "JPEGSize", "Linear", "Loss", "NormPrior", "NormalCut", "Objective",
    "Over", "OverBatch", "OverGroup", "Pairing", "PerPrompt", "PickScore", "Policy", "Preprocess", "Prior", "Quadratic", "ReFL",
    "Result", "Reward", "Saturation", "Scale", "StateValue", "Stop", "UniformCut", "World", "adam", "adjoint_matching_loss",
    "adjoint_path", "batch_advantages", "clamped_loss", "gaussian_kl", "gaussian_logprob", "group_advantages", "memory",
    "memoryless", "optimise", "path_kl", "path_kl_loss", "pathwise_kl", "per_step_kl_loss", "ppo_clip_loss", "score",
    "score_loss", "to_go", "visited",
]  # fmt: skip
