"""From noise to sample: processes, predictions, grids, plans and noise. Knows no gradients."""

from . import methods, readings, toy
from .brownian import Brownian
from .coefficient_tensor import coefficients, compiled
from .compiler import Builder, Method
from .grid import (
    GivenTimes,
    Grid,
    Karras,
    Leading,
    Linspace,
    Quadratic,
    Shifted,
    Trailing,
    UniformLambda,
    UniformT,
)
from .instructions import Apply, Combine, Evaluate
from .loop import advance, combine, run
from .methods import *
from .model import ClassifierFree, Denoiser, Model
from .noise import Addressed, GivenNoise, Noise, RecordedNoise
from .path import Exponential, FromTorchSDE, Path
from .plan import Plan
from .prediction import DATA, FLOW, NOISE, SCORE, Prediction, V, convert
from .process import EDM, VE, VP, CosineVP, DiscreteVP, Process, RectifiedFlow, SubVP, UserPair
from .program import Call
from .readings import *
from .toy import *

__all__ = [
    "Addressed", "Apply", "Brownian", "Builder", "Call", "ClassifierFree", "Combine", "CosineVP", "DATA",
    "Denoiser", "DiscreteVP", "EDM", "Evaluate", "Exponential", "FLOW", "FromTorchSDE", "GivenNoise",
    "GivenTimes", "Grid", "Karras", "Leading", "Linspace", "Method", "Model", "NOISE", "Noise", "Path",
    "Plan", "Prediction", "Process", "Quadratic", "RecordedNoise", "RectifiedFlow", "SCORE", "Shifted",
    "SubVP", "Trailing", "UniformLambda", "UniformT", "UserPair", "V", "VE", "VP", "advance", "coefficients",
    "combine", "compiled", "convert", "methods", "readings", "run", "toy",
]  # fmt: skip
__all__ += methods.__all__
__all__ += readings.__all__
__all__ += toy.__all__
