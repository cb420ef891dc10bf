"""docs/tutorials/rf_inversion.md"""

from figures.figure import Row, Stated
from figures.results import results

found = results("tutorials")["rf_inversion"]
ROWS = {
    "gamma 0, eta 0.9 to 0.1": "gamma 0, eta to 0.1", "gamma 0, eta 0.9 to 0.2": "gamma 0, eta to 0.2",
    "gamma 0.5, eta 0.9 to 0.2": "gamma 0.5, eta to 0.2", "gamma 0, learned eta(t)": "gamma 0, learned eta(t)",
}  # fmt: skip

FIGURES = [
    Row(
        f"| {label} |",
        *(found[f"{what}, {name}"] for what in ("read", "moved")),
        under="| eight held-out digits",
    )
    for label, name in ROWS.items()
]
STATED = [
    Stated("is <0.9> for the first fifth", "an argument"),
    Stated("costs <10> calls, <10> replays and <10>", "the plan"),
]
