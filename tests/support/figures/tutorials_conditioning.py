"""docs/tutorials/conditioning.md"""

from figures.figure import Row, Stated
from figures.results import results

found = results("tutorials")["conditioning"]
ROWS = {
    "no class": "no class",
    "noise optimised": "noise",
    "vector optimised": "vector",
    "the label": "label",
}

FIGURES = [
    Row(
        f"| {label} |",
        *(found[f"{name}, {which}"] for which in ("these 4", "16 new")),
        under="| read as a 3 by the judge",
    )
    for label, name in ROWS.items()
]
STATED = [Stated("A step costs <8>", "calls of the plan")]
