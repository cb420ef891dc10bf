"""docs/concepts.md"""

from figures.figure import Stated

FIGURES = []
STATED = [
    Stated(
        "is <0.97> of the old, <0.30> of this call's prediction and <-0.10> of", "the plan printed above it"
    ),
    Stated("| N states, activations of <1> call | 2N, N | exact |", "by construction"),
    Stated("| 2 states, activations of <1> call |", "by construction"),
]
