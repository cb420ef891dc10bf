"""docs/tutorials/quickstart.md"""

from figures.figure import Figure, Stated
from figures.results import results

FIGURES = [Figure("goes from {0.02} to {0.55}", *results("tutorials")["quickstart"].values())]
STATED = [
    Stated("its <8> network calls", "the plan"),
    Stated("here <8> calls, and for the gradient <8> more and <8> vector", "the plan"),
    Stated("that, <15> times", "an argument"),
]
