"""docs/peers.md"""

from figures.figure import About, Figure, Generated, Stated
from figures.results import column, results, script

own = results("overhead")["us_per_call"]
both = column(own, "native") + column(own, "converted")
small = {name: row["1x4x64x64"]["ratio"] for name, row in results("overhead")["over_diffusers"].items()}

RK4 = "torchdiffeq rk4, t grid"

FIGURES = [
    Generated(script("peers_faults").table(results("peers_faults"))),
    Figure("eager Python, {18} to {41} us a call of its own", min(both), max(both)),
    Figure(
        "takes {1.31} of its time for flow Euler on a (1, 4, 64, 64) state, {1.16} for Euler ancestral, {1.07} for DDIM at",
        *(small[name] for name in ("flow Euler", "Euler ancestral", "DDIM, eta 1")),
    ),
    Figure(
        "past about {160} calls RK4",
        About(
            next(
                row["cost_F"] for row in results("gradients")["rows"] if row["name"] == RK4 and row["N"] == 10
            ),
            5,
        ),
    ),
]
STATED = [Stated("with version <0.24>", "a version"), Stated("models of <1.3> to 32 B", "theirs")]
