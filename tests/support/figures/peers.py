"""docs/peers.md: the tables that benchmarks/peers_can.py and peers_faults.py write, and what is said beside them."""

from figures.continuous import RK4, errors
from figures.figure import About, Figure, Generated, Stated
from figures.overview import own, small
from figures.results import column, results, script

FIGURES = [
    Generated(script("peers_rows").table(results("peers_can"))),
    Generated(script("peers_said").table(results("peers_faults"))),
    Figure("{18} to {41} us a call of its own", min(column(own, "native")), max(column(own, "converted"))),
    Figure("past about {160} calls RK4 through torchdiffeq", About(errors(RK4, 10, "cost_F")[0], 5)),
    Figure(
        "takes {1.31} of its time for flow Euler on a (1, 4, 64, 64) state, {1.16} for Euler ancestral, {1.07} for DDIM at eta 1",
        *(small[name] for name in ("flow Euler", "Euler ancestral", "DDIM, eta 1")),
    ),
]
STATED = [Stated("models of <1.3> to 32 B parameters", "the README of the library named")]
