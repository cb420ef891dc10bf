"""docs/parallel.md"""

from collections.abc import Iterator
from typing import Any

from figures.figure import Figure, Row, Stated
from figures.results import results

found, ranks = results("parallel"), results("parallel_ranks")
NAMES = {"": "VP", "_flow": "flow"}
SHOWN = ("0.001", "0.0001")
rows: dict[tuple[str, str], Any] = {
    (row["problem"].removesuffix("_flow") + ", " + ("flow" if "_flow" in row["problem"] else "VP"),
     row["method"].split("(")[0]): row
    for row in found["sweeps"] if row["steps"] == 100
}  # fmt: skip


def sweeps() -> Iterator[Row]:
    for (problem, method), row in rows.items():
        cells = [value for tol in SHOWN if tol in row["by tol"] for value in row["by tol"][tol]]
        kept = [
            value for k, value in enumerate(cells) if k % 6 not in (2, 3)
        ]  # the page has no numbers of rows
        yield Row(f"| {problem} | {method} |", row["calls"], *kept)


def orders() -> Iterator[Row]:
    for k in (0, 1, 2, 3, 4, 5, 6, 8):
        own = [row for row in found["orders"] if row["order"] == k]
        cells = [row[name] for row in own for name in ("cos at weights", "cos at noise")]
        yield Row(
            f"| {k} |",
            own[0]["VJPs in sequence"],
            own[0]["of Checkpoint"],
            *cells,
            under="Orders of truncation",
        )


def ratios(problem: str) -> list[float]:
    """Error of the gradient by that of the sample, as in the table."""
    own = [row["by tol"] for (name, _), row in rows.items() if name.startswith(problem)]
    return [each[tol][5] / each[tol][4] for each in own for tol in SHOWN if tol in each]


def work(way: int) -> list[float]:
    return [r["by tol"][tol][way] / r["calls"] for r in rows.values() for tol in SHOWN if tol in r["by tol"]]


without, with_them = (
    row["by tol"]["0.0001"] for row in (found["without secants"], rows["digits, VP", "DPMSolverPP"])
)
smooth, rough = ratios("digits") + ratios("faces"), found["rough"]["by tol"]

FIGURES = [
    *sweeps(),
    *orders(),
    Figure(
        "take {18} + {18} at the default tolerance, in place of {12} + {11}", *without[:2], *with_them[:2]
    ),
    Figure(
        "error is {0.9} to {4.1} times the sample's on digits and faces, and up to {38} times on the mixture",
        min(smooth),
        max(smooth),
        max(ratios("mixture")),
    ),
    Figure(
        "the worst of 64 samples is {6e-3} off at the default `tol`, and the worst gradient {107} % of its own norm; at "
        "`tol=1e-6` that is {2e-2}, at <1e-11> {2e-8}",
        rough["0.0001"][4],
        100 * rough["0.0001"][5],
        rough["1e-06"][5],
        rough["1e-11"][5],
    ),
    Figure(
        "The work is {5} to {7} times that of the sequential run forwards, {6} to {13} times backwards",
        *(pick(work(way)) for way in (2, 3) for pick in (min, max)),
    ),
    Figure(
        "trajectory of <100> calls of {6} ms two processes with a thread each took <1> / {2.06} of one's time",
        1e3 * ranks["seconds of one call"],
        ranks["speed-up"],
    ),
    Figure("second core is worth {1.98}", ranks["limit"]),
]
STATED = [
    Stated("of lambda(<1e-3>) under VP", "where the grids end"),
    Stated("only at <3> % of `tol`", "the rule of `Parallel`"),
    Stated("sin(<15> x)", "the network"),
]
