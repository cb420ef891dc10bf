"""docs/releasing.md"""

from figures.figure import Row, Stated
from figures.results import results

TRIED = [row["torch"].partition("+")[0].split(".")[:2] for row in results("matrix") if row.get("passed")]
NEWEST = max(TRIED, key=lambda parts: [int(part) for part in parts])
FIGURES = [Row("| torch, newest tried |", float(".".join(NEWEST)))]
STATED = [
    Stated("Until <1.0> a minor version", "a version"),
    Stated("deprecated in <0.3>, it is gone in <0.5>", "an example of versions"),
    Stated("| Python | <3.11> |", "a version"),
    Stated("| torch | <2.8> |", "a version"),
    Stated("| numpy | <1.26> |", "a version"),
    Stated("| tqdm, safetensors | <4.60>", "a version"),
    Stated("A torch wheel of over <400> MB", "a limit of the script"),
]
