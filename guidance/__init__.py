"""What the gradient is for: optimising what enters a sampler, fine-tuning it to a reward."""

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
from .config import (
    Arithmetic,
    Precision,
    TrainConfig,
    solve,
)
from .dance_grpo import (
    DanceGRPO,
)
from .ddpo import (
    DDPO,
    Estimator,
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
from .lean_adjoint import (
    Pairing,
    adjoint_matching_loss,
    adjoint_path,
)
from .likelihood import (
    gaussian_kl,
    gaussian_logprob,
)
from .memory import (
    memory,
    memoryless,
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
from .refl import (
    ReFL,
)
from .score import (
    score,
)
from .trainer import (
    End,
    RewardTrainer,
)

__all__ = [
    "DDPO", "DPOK", "KL", "AdapterOff", "AdjointMatching", "Advantages", "AlignProp", "Arithmetic", "Batch", "Chain",
    "Checkpoints", "ChiPrior", "Critic", "Cut", "DRaFT", "DRaFTLV", "DanceGRPO", "Divergence", "End", "Estimator",
    "Evaluation", "Experience", "FlowGRPO", "Loss", "NormPrior", "NormalCut", "Objective", "Over", "OverBatch", "OverGroup",
    "Pairing", "PerPrompt", "Policy", "Precision", "Preflight", "Prior", "Prompt", "Prompts", "ReFL", "Result", "Reward",
    "RewardTrainer", "Scale", "StateValue", "Stop", "TrainConfig", "UniformCut", "World", "adam", "adjoint_matching_loss",
    "adjoint_path", "batch_advantages", "clamped_loss", "diverge", "edit", "gaussian_kl", "gaussian_logprob",
    "group_advantages", "load_adapter", "load_weights", "lora", "memory", "memoryless", "optimise", "path_kl", "path_kl_loss",
    "pathwise_kl", "per_step_kl_loss", "ppo_clip_loss", "reference_of", "save_adapter", "save_weights", "score", "score_loss",
    "solve", "to_go", "visited",
]  # fmt: skip
