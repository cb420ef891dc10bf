"""What the gradient is for: optimising what enters a sampler."""

from .advdiff import Adversarial, advdiff
from .black_box import BlackBox
from .concentration import Concentration
from .context import Context, Through
from .d_flow import blended_start, d_flow
from .dno import dno
from .doodl import doodl
from .flow_control import flow_grad, oc_flow
from .guide import Guide, Hook, Together, Window
from .lbfgs import SampleLBFGS, lbfgs
from .optimise import Over, Result, Stop, adam, optimise
from .particles import Cloud, ParticleNoise, particles
from .pgd import L2, Attack, Ball, Linf, pgd
from .policies import SNR, Policy, Raw, Residual, ScoreRatio, Unit
from .potentials import Difference, Most, Potential, Terminal, Total
from .priors import ChiPrior, NormPrior, Prior, Priors
from .purify import purify, straight_through
from .reno import reno
from .resampling import Multinomial, Resampling, Stratified, Systematic, ess
from .skip_straight import SkipStraight
from .smc import smc
from .steer import Steered, steer
from .svdd import best_of, svdd
from .validity import obstacle

__all__ = [
    "L2", "SNR", "Adversarial", "Attack", "Ball", "BlackBox", "ChiPrior", "Cloud", "Concentration", "Context", "Difference",
    "Guide", "Hook", "Linf", "Most", "Multinomial", "NormPrior", "Over", "ParticleNoise", "Policy", "Potential", "Prior",
    "Priors", "Raw", "Resampling", "Residual", "Result", "SampleLBFGS", "ScoreRatio", "SkipStraight", "Steered", "Stop",
    "Stratified", "Systematic", "Terminal", "Through", "Together", "Total", "Unit", "Window", "adam", "advdiff", "best_of",
    "blended_start", "d_flow", "dno", "doodl", "ess", "flow_grad", "lbfgs", "obstacle", "oc_flow", "optimise", "particles",
    "pgd", "purify", "reno", "smc", "steer", "straight_through", "svdd",
]  # fmt: skip
