"""docs/peers.md: the tables that benchmarks/peers_can.py and peers_faults.py write, and what is said beside them."""

from figures.continuous import RK4, errors
from figures.figure import About, Figure, Generated, Stated
from figures.overview import own, small
from figures.results import column, results, script

FIGURES = [
    Generated(script("peers_rows").table(results("peers_can"))),
    Generated(script("peers_said").table(results("peers_faults"))),
    Figure("{13} to {40} us a call of its own", min(column(own, "native")), max(column(own, "converted"))),
    Figure("past about {160} calls RK4 through torchdiffeq", About(errors(RK4, 10, "cost_F")[0], 5)),
    Figure(
        "takes {1.03} of its time on a (1, 4, 64, 64) state, where DDIM at eta 1 takes {0.98} and flow Euler {0.94}",
        *(small[name] for name in ("Euler ancestral", "DDIM, eta 1", "flow Euler")),
    ),
]
STATED = [Stated("models of <1.3> to 32 B parameters", "the README of the library named")]
