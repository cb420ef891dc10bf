"""Losses of reward fine-tuning: what to roll out, what to descend. Knows rewards; knows no optimiser and no file."""

from .adjoint_matching import AdjointMatching
from .advantages import Advantages, OverBatch, OverGroup, PerPrompt, Scale
from .alignprop import AlignProp, Cut, NormalCut, UniformCut
from .chain import Chain, visited
from .critic import Critic, StateValue
from .dance_grpo import DanceGRPO
from .ddpo import DDPO, Estimator
from .dpok import DPOK
from .draft import DRaFT
from .draft_lv import DRaFTLV
from .flow_grpo import FlowGRPO
from .kl import KL
from .likelihood import gaussian_logprob
from .noise_memory import memory, memoryless
from .objective import Batch, Experience, LossTerm, Objective, Policy
from .refl import ReFL

__all__ = [
    "AdjointMatching", "Advantages", "AlignProp", "Batch", "Chain", "Critic", "Cut", "DDPO", "DPOK", "DRaFT",
    "DRaFTLV", "DanceGRPO", "Estimator", "Experience", "FlowGRPO", "KL", "LossTerm", "NormalCut", "Objective",
    "OverBatch", "OverGroup", "PerPrompt", "Policy", "ReFL", "Scale", "StateValue", "UniformCut",
    "gaussian_logprob", "memory", "memoryless", "visited",
]  # fmt: skip
