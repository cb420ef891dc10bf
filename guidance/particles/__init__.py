"""Several runs of each sample, weighted or chosen among by a reward on the way: SMC, SVDD, best of N. Knows guides
and rewards; trains nothing.
"""

from .cloud import Cloud
from .layout import starting_particles
from .potentials import Difference, Discounted, Most, Potential, Terminal, Total
from .resampling import Multinomial, Resampling, Stratified, Systematic, ess
from .sequential import smc
from .soft_value import best_of, svdd

__all__ = [
    "Cloud", "Difference", "Discounted", "Most", "Multinomial", "Potential", "Resampling", "Stratified", "Systematic",
    "Terminal", "Total", "best_of", "ess", "smc", "starting_particles", "svdd",
]  # fmt: skip
