"""docs/tutorials/own_network.md"""

from figures.figure import Figure, Row, Stated
from figures.results import results

found = results("tutorials")["own_network"]
CALLS = "the steps of the plan"

FIGURES = [
    Row("| read as the class asked for, grid of indices |", found["p(asked), grid of indices"]),
    Row("| the same, grid of 0 to 1 |", found["p(asked), grid of 0 to 1"]),
    Row("| read as a 3, no class given, noise as drawn |", found["p(3), no class"]),
    Row("| the same after 15 steps on the noise |", found["p(3), optimised noise"]),
    Figure("(a mean p of {0.82} at the end)", found["p(3), by the loss"]),
]
STATED = [
    Row("| 499.5 |", ...),  # a time
    Stated(
        "about <70> network calls",
        "68, counted by a hook, on VP; the count goes with the time scales that it tries",
    ),
    Stated("with its cost: <12> network calls for 12 steps", CALLS),
    Stated("<12> calls forward, <12> again, and <12> vector-Jacobian products", CALLS),
]
