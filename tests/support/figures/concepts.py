"""docs/concepts.md: a row of the plan that it prints, and what strategies keep."""

import re

from figures.figure import Figure, Row
from pullback.solvers import VP, DPMSolverPP, UniformLambda

printed = str(DPMSolverPP(order=2).plan(VP(), UniformLambda(4, start=1.0, end=0.03)))
second = re.findall(r"x <- (\S+) x (\S+) D1 (\S+) D0", printed)[0]

FIGURES = [
    Figure(
        "the new x is {0.97} of the old, {0.30} of this call's prediction and {-0.10} of the one before",
        *map(float, second),
    )
]
STATED = [Row("| `Checkpoint()`, the default |", ..., ...), Row("| `Reversible()` |", ..., ..., ...)]
