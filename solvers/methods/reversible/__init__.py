"""Which steps can be undone to the last digit? Methods of two states, and couplings that make any single-step method
one. Knows methods and their instructions, no network and no gradient.
"""

from .coupled import Coupled, Rex, Stages
from .two_state import BDIA, EDICT, OBELM, ReversibleHeun

__all__ = [
    "BDIA", "Coupled", "EDICT", "OBELM", "ReversibleHeun", "Rex", "Stages",
]  # fmt: skip
