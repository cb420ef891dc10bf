"""Optimising what enters a sampler: noise, conditioning, controls, weights. Knows no reward model and no guide."""

from .black_box import BlackBox
from .concentration import Concentration
from .dflow import d_flow
from .direct_latents import doodl
from .direct_noise import dno
from .flow_control import flow_grad, oc_flow
from .found import Result, Stop
from .least_squares import LeastSquares
from .optimisation import adam, optimise
from .priors import ChiPrior, NormPrior, Prior
from .reward_noise import reno
from .sample_lbfgs import lbfgs
from .sample_levenberg import levenberg
from .variables import Over

__all__ = [
    "BlackBox", "ChiPrior", "Concentration", "LeastSquares", "NormPrior", "Over", "Prior", "Result", "Stop", "adam",
    "d_flow", "dno", "doodl", "flow_grad", "lbfgs", "levenberg", "oc_flow", "optimise", "reno",
]  # fmt: skip
