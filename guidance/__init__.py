"""What the gradient is for: optimising what enters a sampler, steering it, editing, and fine-tuning it to a reward."""

from . import edit
from .adapter import AdapterOff, load_adapter, load_weights, lora, reference_of, save_adapter, save_weights
from .adjoint_matching import AdjointMatching
from .advantages import Advantages, OverBatch, OverGroup, PerPrompt, Scale, batch_advantages, group_advantages
from .advdiff import Adversarial, advdiff
from .alignprop import AlignProp, Cut, NormalCut, UniformCut
from .black_box import BlackBox
from .chain import Chain, visited
from .checkpoint import Checkpoints
from .classifier import ClassifierGuidance, DataGuidance
from .concentration import Concentration
from .config import Arithmetic, Precision, TrainConfig, solve
from .context import Context, Counter, Setting, Through
from .d_flow import blended_start, d_flow
from .dance_grpo import DanceGRPO
from .daps import DAPS
from .ddnm import DDNM
from .ddpo import DDPO, Estimator
from .diffpir import DiffPIR
from .direct import pathwise_kl
from .divergence import Divergence, diverge
from .dno import dno
from .doodl import doodl
from .dpok import DPOK, Critic, StateValue
from .dps import DPS
from .draft import DRaFT
from .draft_lv import DRaFTLV
from .evaluate import Evaluation
from .flow_control import flow_grad, oc_flow
from .flow_grpo import FlowGRPO
from .flowchef import FlowChef
from .freedom import FreeDoM
from .greedy import Greedy
from .guide import Guide, Hook, Together, Window
from .lbfgs import SampleLBFGS, lbfgs
from .lean_adjoint import Pairing, adjoint_matching_loss, adjoint_path
from .lgd import LGD
from .likelihood import gaussian_kl, gaussian_logprob
from .log import read_log
from .lookahead import Lookahead
from .mcg import MCG
from .measurement import Measurement
from .memory import memory, memoryless
from .mpgd import MPGD
from .nonlinear import Clipping, NonLinear, PhaseRetrieval
from .objective import Batch, Experience, Loss, Objective, Policy, RewardFunction, World
from .operators import Blur, Downsample, GaussianNoise, Linear, Mask, Matrix, Operator
from .optimise import Over, Result, Stop, adam, optimise
from .particles import Cloud, ParticleNoise, particles
from .path_kl import KL, path_kl, path_kl_loss, per_step_kl_loss, to_go
from .pgd import L2, Attack, Ball, Linf, pgd
from .pigdm import PiGDM
from .potentials import Difference, Most, Potential, Terminal, Total
from .preflight import Preflight
from .priors import ChiPrior, NormPrior, Prior, Priors
from .prompts import Prompt, Prompts
from .purify import purify, straight_through
from .ratio import clamped_loss, ppo_clip_loss, score_loss
from .reddiff import REDdiff
from .refl import ReFL
from .reno import reno
from .resampling import Multinomial, Resampling, Stratified, Systematic, ess
from .reward import FunctionReward, Reward
from .reward_clip import Aesthetic, AestheticHead, CLIPScore, PickScore, Preprocess
from .reward_image import Brightness, JPEGSize, Saturation
from .reward_network import ClassifierReward, EmbeddingSimilarity
from .reward_toy import LinearReward, QuadraticReward
from .score import score
from .skip_straight import SkipStraight
from .smc import smc
from .steer import Steered, steer
from .step_size import SNR, Bayes, Raw, Residual, ScoreRatio, StepSize, Unit
from .svdd import best_of, svdd
from .tfg import TFG
from .tmpd import TMPD
from .trainer import End, RewardTrainer
from .travel import Travel
from .twist import Twist
from .universal import Universal
from .validity import obstacle

__all__ = [
    "DAPS", "DDNM", "DDPO", "DPOK", "DPS", "KL", "L2", "LGD", "MCG", "MPGD", "SNR", "TFG", "TMPD", "AdapterOff",
    "AdjointMatching", "Advantages", "Adversarial", "Aesthetic", "AestheticHead", "AlignProp", "Arithmetic", "Attack", "Ball",
    "Batch", "Bayes", "BlackBox", "Blur", "Brightness", "CLIPScore", "Chain", "Checkpoints", "ChiPrior", "ClassifierGuidance",
    "ClassifierReward", "Clipping", "Cloud", "Concentration", "Context", "Counter", "Critic", "Cut", "DRaFT", "DRaFTLV",
    "DanceGRPO", "DataGuidance", "DiffPIR", "Difference", "Divergence", "Downsample", "EmbeddingSimilarity", "End",
    "Estimator", "Evaluation", "Experience", "FlowChef", "FlowGRPO", "FreeDoM", "FunctionReward", "GaussianNoise", "Greedy",
    "Guide", "Hook", "JPEGSize", "Linear", "LinearReward", "Linf", "Lookahead", "Loss", "Mask", "Matrix", "Measurement",
    "Most", "Multinomial", "NonLinear", "NormPrior", "NormalCut", "Objective", "Operator", "Over", "OverBatch", "OverGroup",
    "Pairing", "ParticleNoise", "PerPrompt", "PhaseRetrieval", "PiGDM", "PickScore", "Policy", "Potential", "Precision",
    "Preflight", "Preprocess", "Prior", "Priors", "Prompt", "Prompts", "QuadraticReward", "REDdiff", "Raw", "ReFL",
    "Resampling", "Residual", "Result", "Reward", "RewardFunction", "RewardTrainer", "SampleLBFGS", "Saturation", "Scale",
    "ScoreRatio", "Setting", "SkipStraight", "StateValue", "Steered", "StepSize", "Stop", "Stratified", "Systematic",
    "Terminal", "Through", "Together", "Total", "TrainConfig", "Travel", "Twist", "UniformCut", "Unit", "Universal", "Window",
    "World", "adam", "adjoint_matching_loss", "adjoint_path", "advdiff", "batch_advantages", "best_of", "blended_start",
    "clamped_loss", "d_flow", "diverge", "dno", "doodl", "edit", "ess", "flow_grad", "gaussian_kl", "gaussian_logprob",
    "group_advantages", "lbfgs", "load_adapter", "load_weights", "lora", "memory", "memoryless", "obstacle", "oc_flow",
    "optimise", "particles", "path_kl", "path_kl_loss", "pathwise_kl", "per_step_kl_loss", "pgd", "ppo_clip_loss", "purify",
    "read_log", "reference_of", "reno", "save_adapter", "save_weights", "score", "score_loss", "smc", "solve", "steer",
    "straight_through", "svdd", "to_go", "visited",
]  # fmt: skip
