"""How likely is x under what a sampler draws: log densities, their errors and gradients. Knows no objectives."""

from .dequantise import Dequantisation, NormalDequantisation, UniformDequantisation
from .divergence import ExactDivergence, FlowDivergence, Hutchinson, HutchPP, Probe
from .estimate import LogProb
from .flow_density import log_prob
from .ito import ito_log_prob
from .prior import GaussianPrior
from .sampler_map import map_log_det, sampler_log_prob
from .superposition import And, Or, Superposition, superpose

__all__ = [
    "And", "Dequantisation", "ExactDivergence", "FlowDivergence", "GaussianPrior", "HutchPP", "Hutchinson", "LogProb",
    "NormalDequantisation", "Or", "Probe", "Superposition", "UniformDequantisation", "ito_log_prob", "log_prob",
    "map_log_det", "sampler_log_prob", "superpose",
]  # fmt: skip
