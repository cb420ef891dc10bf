"""What is made of a network: guided, preconditioned, on another process, and tried on data. Knows models."""

from .checking import Checked, Trial, check
from .classifier_free import ClassifierFree, Guided, Passes
from .learned_variance import LearnedVariance
from .on_process import OnProcess
from .preconditioning import (
    EDMPreconditioning,
    Preconditioned,
    Preconditioning,
    TrigFlowPreconditioning,
    VEPreconditioning,
    VPPreconditioning,
)
from .two_heads import TwoHeads

__all__ = [
    "Checked",
    "ClassifierFree",
    "EDMPreconditioning",
    "Guided",
    "LearnedVariance",
    "OnProcess",
    "Passes",
    "Preconditioned",
    "Preconditioning",
    "Trial",
    "TrigFlowPreconditioning",
    "TwoHeads",
    "VEPreconditioning",
    "VPPreconditioning",
    "check",
]
