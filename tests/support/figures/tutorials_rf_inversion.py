"""docs/tutorials/rf_inversion.md"""

from collections.abc import Iterator

from figures.figure import Row, Stated
from figures.results import results

found = results("tutorials")["rf_inversion"]
LABELS = {
    "gamma 0, eta 0.9 to 0.1": "gamma 0, eta to 0.1",
    "gamma 0, eta 0.9 to 0.2": "gamma 0, eta to 0.2",
    "gamma 0.5, eta 0.9 to 0.2": "gamma 0.5, eta to 0.2",
    "gamma 0, learned eta(t)": "gamma 0, learned eta(t)",
}


def table() -> Iterator[Row]:
    for label, name in LABELS.items():
        yield Row(f"| {label} |", found[f"read, {name}"], found[f"moved, {name}"])


FIGURES = [*table()]
STATED = [
    Stated("is <0.9> for the first fifth of the way back", "an argument"),
    Stated("A step of learning costs <10> calls", "the steps of the plan"),
]
