"""What the gradient is for: optimising what enters a sampler, and steering it while it samples."""

from . import (
    edit,
)
from .adapter import (
    AdapterOff,
    load_adapter,
    load_weights,
    lora,
    reference_of,
    save_adapter,
    save_weights,
)
from .adjoint_matching import (
    AdjointMatching,
)
from .advantages import (
    Advantages,
    OverBatch,
    OverGroup,
    PerPrompt,
    Scale,
    batch_advantages,
    group_advantages,
)
from .alignprop import (
    AlignProp,
    Cut,
    NormalCut,
    UniformCut,
)
from .chain import (
    Chain,
    visited,
)
from .checkpoint import (
    Checkpoints,
)
from .classifier import (
    ClassifierGuidance,
    DataGuidance,
)
from .config import (
    Arithmetic,
    Precision,
    TrainConfig,
    solve,
)
from .context import (
    Context,
    Counter,
    Setting,
    Through,
)
from .dance_grpo import (
    DanceGRPO,
)
from .daps import (
    DAPS,
)
from .ddnm import (
    DDNM,
)
from .ddpo import (
    DDPO,
    Estimator,
)
from .diffpir import (
    DiffPIR,
)
from .direct import (
    pathwise_kl,
)
from .divergence import (
    Divergence,
    diverge,
)
from .dpok import (
    DPOK,
    Critic,
    StateValue,
)
from .dps import (
    DPS,
)
from .draft import (
    DRaFT,
)
from .draft_lv import (
    DRaFTLV,
)
from .evaluate import (
    Evaluation,
)
from .flow_grpo import (
    FlowGRPO,
)
from .flowchef import (
    FlowChef,
)
from .freedom import (
    FreeDoM,
)
from .greedy import (
    Greedy,
)
from .guide import (
    Guide,
    Hook,
    Together,
    Window,
)
from .lean_adjoint import (
    Pairing,
    adjoint_matching_loss,
    adjoint_path,
)
from .lgd import (
    LGD,
)
from .likelihood import (
    gaussian_kl,
    gaussian_logprob,
)
from .lookahead import (
    Lookahead,
)
from .mcg import (
    MCG,
)
from .measurement import (
    Measurement,
)
from .memory import (
    memory,
    memoryless,
)
from .mpgd import (
    MPGD,
)
from .nonlinear import (
    Clipping,
    NonLinear,
    PhaseRetrieval,
)
from .objective import (
    Batch,
    Experience,
    Loss,
    Objective,
    Policy,
    Reward,
    World,
)
from .operators import (
    Blur,
    Downsample,
    GaussianNoise,
    Linear,
    Mask,
    Matrix,
    Operator,
)
from .optimise import (
    Over,
    Result,
    Stop,
    adam,
    optimise,
)
from .path_kl import (
    KL,
    path_kl,
    path_kl_loss,
    per_step_kl_loss,
    to_go,
)
from .pigdm import (
    PiGDM,
)
from .policies import (
    SNR,
    Bayes,
    Policy,
    Raw,
    Residual,
    ScoreRatio,
    Unit,
)
from .preflight import (
    Preflight,
)
from .priors import (
    ChiPrior,
    NormPrior,
    Prior,
)
from .prompts import (
    Prompt,
    Prompts,
)
from .ratio import (
    clamped_loss,
    ppo_clip_loss,
    score_loss,
)
from .reddiff import (
    REDdiff,
)
from .refl import (
    ReFL,
)
from .score import (
    score,
)
from .steer import (
    Steered,
    steer,
)
from .tfg import (
    TFG,
)
from .tmpd import (
    TMPD,
)
from .trainer import (
    End,
    RewardTrainer,
)
from .travel import (
    Travel,
)
from .universal import (
    Universal,
)
from .validity import (
    obstacle,
)

__all__ = [
    "DAPS", "DDNM", "DDPO", "DPOK", "DPS", "KL", "LGD", "MCG", "MPGD", "SNR", "TFG", "TMPD", "AdapterOff", "AdjointMatching",
    "Advantages", "AlignProp", "Arithmetic", "Batch", "Bayes", "Blur", "Chain", "Checkpoints", "ChiPrior",
    "ClassifierGuidance", "Clipping", "Context", "Counter", "Critic", "Cut", "DRaFT", "DRaFTLV", "DanceGRPO", "DataGuidance",
    "DiffPIR", "Divergence", "Downsample", "End", "Estimator", "Evaluation", "Experience", "FlowChef", "FlowGRPO", "FreeDoM",
    "GaussianNoise", "Greedy", "Guide", "Hook", "Linear", "Lookahead", "Loss", "Mask", "Matrix", "Measurement", "NonLinear",
    "NormPrior", "NormalCut", "Objective", "Operator", "Over", "OverBatch", "OverGroup", "Pairing", "PerPrompt",
    "PhaseRetrieval", "PiGDM", "Policy", "Precision", "Preflight", "Prior", "Prompt", "Prompts", "REDdiff", "Raw", "ReFL",
    "Residual", "Result", "Reward", "RewardTrainer", "Scale", "ScoreRatio", "Setting", "StateValue", "Steered", "Stop",
    "Through", "Together", "TrainConfig", "Travel", "UniformCut", "Unit", "Universal", "Window", "World", "adam",
    "adjoint_matching_loss", "adjoint_path", "batch_advantages", "clamped_loss", "diverge", "edit", "gaussian_kl",
    "gaussian_logprob", "group_advantages", "load_adapter", "load_weights", "lora", "memory", "memoryless", "obstacle",
    "optimise", "path_kl", "path_kl_loss", "pathwise_kl", "per_step_kl_loss", "ppo_clip_loss", "reference_of", "save_adapter",
    "save_weights", "score", "score_loss", "solve", "steer", "to_go", "visited",
]  # fmt: skip
