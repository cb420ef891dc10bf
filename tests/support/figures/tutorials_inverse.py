"""docs/tutorials/inverse.md"""

from figures.figure import Row, Stated
from figures.results import results

found = results("tutorials")["inverse"]
ROWS = {
    "exact draws: the floor": ["exact draws"], "no guide": ["no guide"],
    "`DPS`, its default scale 1.0 / 0.3 / 0.1": [f"DPS, scale {scale}" for scale in ("1.0", "0.3", "0.1")],
    "`PiGDM`": ["PiGDM"], "`TMPD`": ["TMPD"], "`smc` under `TMPD`, as many particles as draws": ["smc under TMPD"],
}  # fmt: skip
CALLS = {"exact draws: the floor": []}

FIGURES = [
    Row(
        f"| {label} |",
        *(found[name] for name in names),
        *CALLS.get(label, [..., ...]),
        under="| three measurements",
    )
    for label, names in ROWS.items()
]
STATED = [Stated("`DPS` at <0.1>", "its scale")]
