"""From noise to sample: processes, predictions, grids, plans and noise. Knows no gradients."""

from . import endpoint, methods, networks, neural, phase_space, pipelines, readings, schedulers, toy
from .brownian import Brownian
from .calling import CastCond, FirstChannels, Keywords, Positional, TimeFirst
from .coefficient_tensor import coefficients, compiled
from .compiler import Builder, Method
from .drift import OwnNoise
from .endpoint import *
from .grid import (
    GivenTimes,
    Grid,
    Karras,
    Leading,
    Linspace,
    Quadratic,
    Repeating,
    Rising,
    Shifted,
    Trailing,
    UniformLambda,
    UniformT,
)
from .instructions import Apply, Combine, Evaluate
from .interpolant import Interpolant
from .labels import (
    LabelsAt,
    LabelTable,
    LevelIndex,
    LogNoiseLevel,
    Nearest,
    NoiseLevel,
    OwnTime,
    Scaled,
    WholeLabels,
)
from .linear_map import LinearMap, Mixing, PerElement
from .loop import advance, combine, run
from .methods import *
from .model import Denoiser, Model
from .networks import *
from .neural import *
from .noise import Addressed, GivenNoise, Noise, RecordedNoise
from .path import Exponential, FromTorchSDE, Path
from .phase_space import *
from .pipelines import *
from .plan import Plan
from .poisson_flow import PoissonFlow
from .prediction import DATA, FLOW, NOISE, SCORE, Prediction, V, convert
from .process import EDM, VE, VP, CosineVP, DiscreteVP, Process, RectifiedFlow, SubVP, UserPair
from .program import Call
from .readings import *
from .schedulers import *
from .toy import *

__all__ = [
    "Addressed", "Apply", "Brownian", "Builder", "Call", "CastCond", "Combine",
    "CosineVP", "DATA", "Denoiser", "DiscreteVP", "EDM", "Evaluate", "Exponential",
    "FLOW", "FirstChannels", "FromTorchSDE", "GivenNoise", "GivenTimes", "Grid", "Interpolant",
    "Karras", "Keywords", "LabelTable", "LabelsAt", "Leading", "LevelIndex", "LinearMap", "Linspace",
    "LogNoiseLevel", "Method", "Mixing", "Model", "NOISE", "Nearest", "Noise", "NoiseLevel", "OwnNoise",
    "OwnTime", "Path", "PerElement", "Plan", "PoissonFlow", "Positional",
    "Prediction", "Process", "Quadratic", "RecordedNoise", "RectifiedFlow", "Repeating",
    "Rising", "SCORE", "Scaled", "Shifted", "SubVP", "TimeFirst", "Trailing",
    "UniformLambda", "UniformT", "UserPair", "V", "VE", "VP",
    "WholeLabels", "advance", "coefficients", "combine", "compiled",
    "convert", "endpoint", "methods", "networks", "neural", "phase_space", "pipelines", "readings", "run", "schedulers",
    "toy",
]  # fmt: skip
__all__ += endpoint.__all__
__all__ += methods.__all__
__all__ += networks.__all__
__all__ += neural.__all__
__all__ += phase_space.__all__
__all__ += pipelines.__all__
__all__ += readings.__all__
__all__ += toy.__all__
