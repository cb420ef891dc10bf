"""Which exact strategy is the fastest that fits, on this network at this batch? Knows the strategies, and measures."""

from .auto import Auto
from .gradient_plan import GradientPlan

__all__ = [
    "Auto", "GradientPlan",
]  # fmt: skip
