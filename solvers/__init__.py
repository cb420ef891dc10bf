"""From noise to sample: processes, predictions, grids, plans and noise. Knows no gradients."""

from . import methods, readings, schedulers, toy
from .brownian import Brownian
from .calling import CastCond, FirstChannels, Keywords, Positional
from .checking import Checked, Trial, check
from .classifier_free import ClassifierFree, Guided, Passes
from .coefficient_tensor import coefficients, compiled
from .compiler import Builder, Method
from .grid import (
    GivenTimes,
    Grid,
    Karras,
    Leading,
    Linspace,
    Quadratic,
    Rising,
    Shifted,
    Trailing,
    UniformLambda,
    UniformT,
)
from .instructions import Apply, Combine, Evaluate
from .labels import LabelTable, LogNoiseLevel, NoiseLevel, OwnTime, Scaled, WholeLabels
from .loop import advance, combine, run
from .methods import *
from .model import Denoiser, Model
from .noise import Addressed, GivenNoise, Noise, RecordedNoise
from .path import Exponential, FromTorchSDE, Path
from .plan import Plan
from .prediction import DATA, FLOW, NOISE, SCORE, Prediction, V, convert
from .process import EDM, VE, VP, CosineVP, DiscreteVP, Process, RectifiedFlow, SubVP, UserPair
from .program import Call
from .readings import *
from .schedulers import *
from .toy import *

__all__ = [
    "Addressed", "Apply", "Brownian", "Builder", "Call", "CastCond", "Checked", "ClassifierFree", "Combine",
    "CosineVP", "DATA", "Denoiser", "DiscreteVP", "EDM", "Evaluate", "Exponential", "FLOW", "FirstChannels",
    "FromTorchSDE", "GivenNoise", "GivenTimes", "Grid", "Guided", "Karras", "Keywords", "LabelTable",
    "Leading", "Linspace", "LogNoiseLevel", "Method", "Model", "NOISE", "Noise", "NoiseLevel", "OwnTime",
    "Passes", "Path", "Plan", "Positional", "Prediction", "Process", "Quadratic", "RecordedNoise",
    "RectifiedFlow", "Rising", "SCORE", "Scaled", "Shifted", "SubVP", "Trailing", "Trial", "UniformLambda",
    "UniformT", "UserPair", "V", "VE", "VP", "WholeLabels", "advance", "check", "coefficients", "combine",
    "compiled", "convert", "methods", "readings", "run", "schedulers",
    "toy",
]  # fmt: skip
__all__ += methods.__all__
__all__ += readings.__all__
__all__ += schedulers.__all__
__all__ += toy.__all__
