"""docs/tutorials/quickstart.md"""

from figures.figure import Figure, Stated
from figures.results import results

found = results("tutorials")["quickstart"]

FIGURES = [Figure("goes from {0.02} to {0.55}", found["p(3) as drawn"], found["p(3) optimised"])]
STATED = [
    Stated("its <8> network calls", "the steps of the plan"),
    Stated("here <8> calls, and for the gradient 8 more", "the steps of the plan"),
    Stated("that, <15> times", "the steps asked for"),
]
