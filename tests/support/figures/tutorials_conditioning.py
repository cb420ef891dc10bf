"""docs/tutorials/conditioning.md"""

from figures.figure import Row, Stated
from figures.results import results

found = results("tutorials")["conditioning"]
LABELS = {
    "no class": "no class",
    "noise": "noise optimised",
    "vector": "vector optimised",
    "label": "the label",
}

FIGURES = [
    Row(f"| {label} |", *(found[f"{name}, {where}"] for where in ("these 4", "16 new")))
    for name, label in LABELS.items()
]
STATED = [Stated("A step costs <8> network calls forward", "the steps of the plan")]
