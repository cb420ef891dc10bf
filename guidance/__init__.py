"""What the gradient is for: optimising what enters a sampler, fine-tuning it to a reward."""

from .adapter import AdapterOff, load_adapter, load_weights, lora, reference_of, save_adapter, save_weights
from .adjoint_matching import AdjointMatching
from .advantages import Advantages, OverBatch, OverGroup, PerPrompt, Scale, batch_advantages, group_advantages
from .alignprop import AlignProp, Cut, NormalCut, UniformCut
from .chain import Chain, visited
from .checkpoint import Checkpoints
from .config import Arithmetic, Precision, TrainConfig, solve
from .dance_grpo import DanceGRPO
from .ddpo import DDPO, Estimator
from .direct import pathwise_kl
from .divergence import Divergence, diverge
from .dpok import DPOK, Critic, StateValue
from .draft import DRaFT
from .draft_lv import DRaFTLV
from .evaluate import Evaluation
from .flow_grpo import FlowGRPO
from .lean_adjoint import Pairing, adjoint_matching_loss, adjoint_path
from .likelihood import gaussian_kl, gaussian_logprob
from .memory import memory, memoryless
from .objective import Batch, Experience, Loss, Objective, Policy, World
from .optimise import Over, Result, Stop, adam, optimise
from .path_kl import KL, path_kl, path_kl_loss, per_step_kl_loss, to_go
from .preflight import Preflight
from .priors import ChiPrior, NormPrior, Prior
from .prompts import Prompt, Prompts
from .ratio import clamped_loss, ppo_clip_loss, score_loss
from .refl import ReFL
from .reward import FunctionReward, Reward
from .reward_clip import Aesthetic, AestheticHead, CLIPScore, PickScore, Preprocess
from .reward_image import Brightness, JPEGSize, Saturation
from .reward_network import ClassifierReward, EmbeddingSimilarity
from .reward_toy import Linear, Quadratic
from .score import score
from .trainer import End, RewardTrainer

__all__ = [
    "DDPO", "DPOK", "KL", "AdapterOff", "AdjointMatching", "Advantages", "Aesthetic", "AestheticHead", "AlignProp", "Arithmetic",
    "Batch", "Brightness", "CLIPScore", "Chain", "Checkpoints", "ChiPrior", "ClassifierReward", "Critic", "Cut", "DRaFT",
    "DRaFTLV", "DanceGRPO", "Divergence", "EmbeddingSimilarity", "End", "Estimator", "Evaluation", "Experience", "FlowGRPO",
    "FunctionReward", "JPEGSize", "Linear", "Loss", "NormPrior", "NormalCut", "Objective", "Over", "OverBatch", "OverGroup",
    "Pairing", "PerPrompt", "PickScore", "Policy", "Precision", "Preflight", "Preprocess", "Prior", "Prompt", "Prompts",
    "Quadratic", "ReFL", "Result", "Reward", "RewardTrainer", "Saturation", "Scale", "StateValue", "Stop", "TrainConfig",
    "UniformCut", "World", "adam", "adjoint_matching_loss", "adjoint_path", "batch_advantages", "clamped_loss", "diverge",
    "gaussian_kl", "gaussian_logprob", "group_advantages", "load_adapter", "load_weights", "lora", "memory", "memoryless",
    "optimise", "path_kl", "path_kl_loss", "pathwise_kl", "per_step_kl_loss", "ppo_clip_loss", "reference_of", "save_adapter",
    "save_weights", "score", "score_loss", "solve", "to_go", "visited",
]  # fmt: skip
