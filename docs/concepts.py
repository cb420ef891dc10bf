"""Draws docs/concepts.png: a plan as the table of its coefficients, beside the two loops that read it."""

import pathlib
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from pullback.solvers import VP, Combine, DPMSolverPP, Evaluate, UniformLambda

FORWARD = """\
for step in plan:
    D[k] = network(x, t[k])
    x = a*x + b*D[k] + c*D[k-1]


# a, b, c: the row
# network calls: 4"""
BACKWARD = """\
for step in reversed(plan):
    gD[k]   += b*gx
    gD[k-1] += c*gx
    gx = a*gx + vjp(x, t[k], gD[k])

# a, b, c: the same row
# network calls again: 4, VJPs: 4"""


def main() -> None:
    plan = DPMSolverPP(order=2).plan(VP(), UniformLambda(4, start=1.0, end=0.03))
    calls = [op for op in plan.instructions if isinstance(op, Evaluate)]
    sums = [op for op in plan.instructions if isinstance(op, Combine)]
    figure, axis = plt.subplots(figsize=(11.5, 2.9))
    axis.set(xlim=(0, 23), ylim=(5.3, -1.6))
    axis.axis("off")
    columns = ("x", *(name for call in calls for name in call.outs))
    axis.text(0, -1.1, "the plan: each row makes a new x of these", weight="bold")
    for column, name in enumerate(columns):
        axis.text(2.6 + 1.35 * column, -0.25, name, ha="center", family="monospace")
    for row, made in enumerate(sums):
        axis.text(0, row + 0.5, f"t = {plan.times[row]:.2f}", va="center", fontsize=9, color="#555555")
        terms: Any = made.terms  # numbers, on one grid for all samples
        for value, name in terms:
            place = 2.6 + 1.35 * columns.index(name)
            shade = "#dce8f3" if value > 0 else "#f6e3dc"
            axis.add_patch(Rectangle((place - 0.62, row + 0.06), 1.24, 0.88, color=shade))
            axis.text(place, row + 0.5, f"{value:+.3f}", ha="center", va="center", fontsize=9)
    axis.text(0, 4.75, "noise at the top, the sample at the bottom", fontsize=9, color="#555555")
    for place, title, loop in (
        (9.9, "the loop that samples", FORWARD),
        (16.4, "the loop of the gradient", BACKWARD),
    ):
        axis.text(place, -1.1, title, weight="bold")
        axis.text(place, 0.0, loop, family="monospace", fontsize=8.5, va="top", linespacing=1.6)
    figure.savefig(pathlib.Path(__file__).with_suffix(".png"), dpi=90, bbox_inches="tight", facecolor="white")


if __name__ == "__main__":
    main()
