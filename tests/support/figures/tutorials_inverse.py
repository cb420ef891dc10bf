"""docs/tutorials/inverse.md"""

from figures.figure import Figure, Row, Stated
from figures.results import results

found = results("tutorials")["inverse"]
RUN = (50, 50)  # calls and VJPs of a run of 50 steps

FIGURES = [
    Row("| exact draws: the floor |", found["exact draws"]),
    Row("| no guide |", found["no guide"], 50, 0),
    Row(
        "| `DPS`, its default scale 1.0 / 0.3 / 0.1 |",
        *(found[f"DPS, scale {k}"] for k in (1.0, 0.3, 0.1)),
        *RUN,
    ),
    Row("| `PiGDM` |", found["PiGDM"], *RUN),
    Row("| `TMPD` |", found["TMPD"], *RUN),
    Row("| `smc` under `TMPD`, as many particles as draws |", found["smc under TMPD"], *RUN),
    Figure("({77} of 200 at worst here)", found["least ESS"]),
    Figure("here {0.3} to {0.5} below", found["log Z below, least"], found["log Z below, most"]),
]
STATED = [Stated("`DPS` at <0.1>, `TMPD`", "a scale")]
