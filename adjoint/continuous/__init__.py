"""Gradients of the flow rather than of the run: a second plan, or the published adjoint. Knows no outside library."""

from .adjoint_deis import AdjointDEIS
from .second_plan import Continuous
from .states import States

__all__ = [
    "AdjointDEIS", "Continuous", "States",
]  # fmt: skip
