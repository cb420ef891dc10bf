"""From noise to sample: processes, predictions, grids, plans and noise. Knows no gradients."""

from .adaptive import accepted_times
from .brownian import Brownian
from .coefficients import bound, coefficients, compiled
from .compiler import Builder, Method
from .coupled import Coupled, Rex, Stages
from .ddim import DDIM, DDPM
from .deis import DEIS
from .dpm import DPMSolverPP, DPMSolverPPSingle
from .edm import EDMHeun
from .edm_pec import EDMPEC
from .er_sde import ERSDE
from .expand import expand
from .flow import FlowAdams, FlowEuler, FlowHeun, FlowMidpoint
from .flow_sde import ConstantFlowSDE, FlowSDE
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
from .inverse import Inversion, decode, encode, inversion, narrowed, solve, widened
from .model import ClassifierFree, Denoiser, Model
from .moments import moments, response
from .noise import Addressed, GivenNoise, Noise, RecordedNoise
from .path import Exponential, FromTorchSDE, Path, PathNoise
from .plan import Apply, Combine, Evaluate, Plan, stack
from .prediction import DATA, FLOW, NOISE, PREDICTIONS, SCORE, Prediction, V, conversion, convert
from .predictor_corrector import Evaluation
from .process import EDM, VE, VP, CosineVP, DiscreteVP, Process, RectifiedFlow, SubVP, UserPair, as_time
from .program import Call, Evaluator, Op, Ops, Program, Sum, Value, prepare
from .recover import Encoding, recover_noise
from .restart import Restart
from .reversible import BDIA, EDICT, OBELM, ReversibleHeun
from .run import combine, entry, execute, predict, run, total
from .sa import SASolver, Tau
from .sde import EulerMaruyama, SDEDPMSolver, SDEDPMSolverPP
from .toy import Gaussian, Mixture
from .transition import Transitions
from .unipc import BVariant, UniPC
from .weights import data_weights

__all__ = [
    "BDIA", "DATA", "DDIM", "DDPM", "DEIS", "EDICT", "EDM", "EDMPEC", "ERSDE", "FLOW", "NOISE", "OBELM", "PREDICTIONS", "SCORE",
    "V", "VE", "VP", "Addressed", "Apply", "BVariant", "Brownian", "Builder", "Call", "ClassifierFree", "Combine",
    "ConstantFlowSDE", "CosineVP", "Coupled", "DPMSolverPP", "DPMSolverPPSingle", "Denoiser", "DiscreteVP", "EDMHeun",
    "Encoding", "EulerMaruyama", "Evaluate", "Evaluation", "Evaluator", "Exponential", "FlowAdams", "FlowEuler", "FlowHeun",
    "FlowMidpoint", "FlowSDE", "FromTorchSDE", "Gaussian", "GivenNoise", "GivenTimes", "Grid", "Inversion", "Karras", "Leading",
    "Linspace", "Method", "Mixture", "Model", "Noise", "Op", "Ops", "Path", "PathNoise", "Plan", "Prediction", "Process",
    "Program", "Quadratic", "RecordedNoise", "RectifiedFlow", "Restart", "ReversibleHeun", "Rex", "SASolver", "SDEDPMSolver",
    "SDEDPMSolverPP", "Shifted", "Stages", "SubVP", "Sum", "Tau", "Trailing", "Transitions", "UniPC", "UniformLambda",
    "UniformT", "UserPair", "Value", "accepted_times", "as_time", "bound", "coefficients", "combine", "compiled", "conversion",
    "convert", "data_weights", "decode", "encode", "entry", "execute", "expand", "inversion", "moments", "narrowed", "predict",
    "prepare", "recover_noise", "response", "run", "solve", "stack", "total", "widened",
]  # fmt: skip
