"""docs/multilevel.md"""

import statistics

from figures.figure import Figure, Row
from figures.results import results

problems, limit = results("multilevel")["problems"], results("multilevel")["limit"]
LABELS = {
    "mixture on the line, DPM-Solver++(2M)": "line, DPM-Solver++(2M)",
    "mixture of 16 in the plane, DPM-Solver++(2M)": "16 in the plane, DPM-Solver++(2M)",
    "bundled digits, log p(3), all weights, DPM-Solver++(2M)": "digits, DPM-Solver++(2M)",
    "line, DDIM": "line, DDIM",
    "16 in the plane, DDIM": "16 in the plane, DDIM",
    "line, SDE-DPM-Solver++(2M)": "line, SDE-DPM-Solver++(2M)",
    "16 in the plane, SDE-DPM-Solver++(2M)": "16 in the plane, SDE-DPM-Solver++(2M)",
}


def row(label: str, name: str) -> Row:
    targets = problems[name]["targets"]
    same = label == "16 in the plane, DDIM"  # said in words
    levels = [] if same else targets["1000"]["levels"]
    return Row(f"| {label} |", *(targets[n]["gain"] for n in ("20", "100", "1000")), *levels)


def alone(method: str, steps: int, part: str) -> list[float]:
    """Cosine or norm of the gradient of so many steps beside that of 1000, on the two mixtures."""
    names = (f"{where}, {method}" for where in ("line", "16 in the plane"))
    return [problems[name]["targets"]["1000"]["coarse_alone"][str(steps)][part] for name in names]


def least_most(method: str, steps: int, part: str) -> tuple[float, float]:
    return min(alone(method, steps, part)), max(alone(method, steps, part))


DPM, SDE = "DPM-Solver++(2M)", "SDE-DPM-Solver++(2M)"

FIGURES = [
    *(row(label, name) for label, name in LABELS.items()),
    Figure(
        "of 10 steps of DPM-Solver++(2M) has cosine {0.998} with that of <1000> and {1.03} to {1.04} times its norm; of "
        "5 steps {0.99} to {1.00} and {0.95} to {1.02}; of 3 steps on the line {0.67}",
        statistics.mean(alone(DPM, 10, "cosine")),
        *least_most(DPM, 10, "norm"),
        *least_most(DPM, 5, "cosine"),
        *least_most(DPM, 5, "norm"),
        alone(DPM, 3, "cosine")[0],
    ),
    Figure(
        "With DDIM 10 steps are at {0.94} to {0.98} and {0.87} to {0.89}",
        *least_most("DDIM", 10, "cosine"),
        *least_most("DDIM", 10, "norm"),
    ),
    Figure(
        "{2.4} for DPM-Solver++(2M) from 4 steps, at {7.6} calls a draw, and {2.9} for SDE-DPM-Solver++(2M), at {36}",
        *(
            value
            for method in (DPM, SDE)
            for value in (
                max(abs(z) for run in limit[method] for z in run["z"]),
                statistics.mean(run["calls_a_draw"] for run in limit[method]),
            )
        ),
    ),
]
STATED = []
