"""docs/tutorials/audit.md: its listing, but for seconds and what is rebuilt, and what is said of it."""

import math

from figures.continuous import right
from figures.figure import About, Figure, Value
from figures.results import results

found = results("tutorials")["audit"]
LISTED = {  # error, cosine, ratio, as printed
    "Checkpoint()": "{2.0e-07} {1.000000} {1.0000}",
    "Reversible(), its own plan": "{7.1e-02} {0.997607} {0.9814}",
    "Continuous()": "{1.8e-01} {0.998979} {0.8225}",
    "Continuous(method=DPMSolverPP(2))": "{5.5e-02} {0.999582} {0.9531}",
    "AdjointDEIS(1)": "{1.0e+00} {-0.814448} {0.0003}",
    "JacobianFree()": "{2.5e+01} {0.313398} {24.9471}",
}


def noise(what: str, name: str) -> float:
    return found[f"{what}, noise, {name}"]


def values(name: str) -> list[Value]:
    error, *rest = (noise(what, name) for what in ("error", "cosine", "ratio"))
    return [About(error, 1e-7) if error < 1e-6 else error, *rest]


FIGURES = [
    *(Figure(f"{name} {printed}", *values(name)) for name, printed in LISTED.items()),
    *(
        Figure(f"{{{flow}}}\n{after}", noise("to flow", name))
        for name, flow, after in (
            ("Checkpoint()", "5.9e-02", "Reversible()"),
            ("Continuous()", "1.5e-01", "Continuous(method="),
            ("Continuous(method=DPMSolverPP(2))", "2.3e-02", "AdjointDEIS(1)"),
            ("AdjointDEIS(1)", "1.0e+00", "JacobianFree()"),
            ("JacobianFree()", "2.6e+01", "nearest to the flow"),
        )
    ),
    Figure("The exact one of 10 steps is {6} % away", 100 * noise("to flow", "Checkpoint()")),
    Figure("`JacobianFree` is at {72} degrees", math.degrees(math.acos(noise("cosine", "JacobianFree()")))),
    Figure("right one in {three} of four runs", 4 * right["all"][0]),
    Figure(
        "have the direction of the whole to {0.87} and {0.07} of its length",
        *(found[f"{what}, class, Truncated(3)"] for what in ("cosine", "ratio")),
    ),
]
STATED = []
