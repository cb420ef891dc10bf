"""From noise to sample: processes, predictions, grids, plans and noise. Knows no gradients."""

from .compiler import Builder, Method
from .ddim import DDIM, DDPM
from .deis import DEIS
from .dpm import DPMSolverPP, DPMSolverPPSingle
from .edm import EDMHeun
from .er_sde import ERSDE
from .expand import expand
from .flow import FlowAdams, FlowEuler, FlowHeun, FlowMidpoint
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
from .model import ClassifierFree, Denoiser, Model
from .moments import moments, response
from .noise import Addressed, GivenNoise, Noise, RecordedNoise
from .plan import Apply, Combine, Evaluate, Plan, stack
from .prediction import DATA, FLOW, NOISE, PREDICTIONS, SCORE, Prediction, V, conversion, convert
from .predictor_corrector import Evaluation
from .process import EDM, VE, VP, CosineVP, DiscreteVP, Process, RectifiedFlow, SubVP, UserPair
from .restart import Restart
from .run import Call, Evaluator, Program, Sum, Value, combine, execute, predict, prepare, run
from .sa import SASolver, Tau
from .sde import EulerMaruyama, SDEDPMSolver, SDEDPMSolverPP
from .toy import Gaussian, Mixture
from .unipc import BVariant, UniPC

__all__ = [
    "DATA", "DDIM", "DDPM", "DEIS", "EDM", "ERSDE", "FLOW", "NOISE", "PREDICTIONS", "SCORE", "V", "VE", "VP", "Addressed",
    "Apply", "BVariant", "Builder", "Call", "ClassifierFree", "Combine", "CosineVP", "DPMSolverPP", "DPMSolverPPSingle",
    "Denoiser", "DiscreteVP", "EDMHeun", "EulerMaruyama", "Evaluate", "Evaluation", "Evaluator", "FlowAdams", "FlowEuler",
    "FlowHeun", "FlowMidpoint", "Gaussian", "GivenNoise", "GivenTimes", "Grid", "Karras", "Leading", "Linspace", "Method",
    "Mixture", "Model", "Noise", "Plan", "Prediction", "Process", "Program", "Quadratic", "RecordedNoise", "RectifiedFlow",
    "Restart", "SASolver", "SDEDPMSolver", "SDEDPMSolverPP", "Shifted", "SubVP", "Sum", "Tau", "Trailing", "UniPC",
    "UniformLambda", "UniformT", "UserPair", "Value", "combine", "conversion", "convert", "execute", "expand", "moments",
    "predict", "prepare", "response", "run", "stack",
]  # fmt: skip
