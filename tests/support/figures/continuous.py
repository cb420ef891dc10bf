"""docs/continuous.md"""

from collections.abc import Iterator
from typing import Any

from figures.figure import Figure, Row, Stated
from figures.results import results

measured = {
    (row["name"], row["N"], row["spread"]): row
    for row in results("gradients")["rows"]
    if row["equation"] == "ode"
}
networks, audits, found = results("continuous"), results("audits"), results("continuous_orders")
orders, controller = found["orders"], found["controller"]
rms = {name: dict(map(tuple, errors)) for name, errors in results("sample")["rms"].items()}
EXACT, OURS, DEIS = "Checkpoint, 2M", "Continuous, M = N", "AdjointDEIS(2)"


def errors(name: str, n: int, what: str = "x_error") -> list[Any]:
    """For means that lie 0.5 and 1.5 apart."""
    return [measured[name, n, spread][what] for spread in (0.5, 1.5)]


def beside_the_flow() -> Iterator[Row]:
    for n in (10, 20, 50):
        yield Row(f"| {n} |", *(v for name in (EXACT, OURS, DEIS) for v in errors(name, n)))


def ratios(kind: str, base: str, at: int = 0) -> list[float]:
    """Error by that of `Checkpoint`, at the start (0) or at conditioning (1), of all networks of a kind."""
    rows = [row["errors"] for row in networks if kind in row["network"]]
    return [each[f"Continuous({base}, INTEGRATED)"][at] / each["Checkpoint"][at] for each in rows]


def by_network() -> Iterator[Row]:
    for label, kind in (
        ("mixture, as data or noise prediction", "mixture"), ("random perceptron as v", "perceptron as V"),
        ("random perceptron as noise", "perceptron as NOISE"), ("random perceptron as data", "perceptron as DATA"),
    ):  # fmt: skip
        yield Row(
            f"| {label} |", *(pick(ratios(kind, base)) for base in ("EDMPEC", "2M") for pick in (min, max))
        )


def slopes() -> Iterator[Row]:
    for name in (
        "DDIM()",
        "EDMPEC()",
        "DPMSolverPP(2)",
        "FlowHeun()",
        "DPMSolverPP(3)",
        "DEIS(3)",
        "UniPC(2)",
        "UniPC(3)",
    ):
        rows = orders[f"Continuous({name}), INTEGRATED"]
        label = "`FlowHeun()`, two VJPs a step" if name == "FlowHeun()" else f"`{name}`"
        yield Row(
            f"| {label} |",
            *(row[what] for row in rows.values() for what in ("120", "slope")),
            under="| second plan | states",
        )


def strategies() -> Iterator[Row]:
    for name, first in audits["tables"][0]["rows"].items():
        label = name.replace(
            "SkipStraight(0.1), a run of FlowEuler", "`SkipStraight(0.1)`, a run of `FlowEuler`"
        )
        label = label.replace(
            "Reversible(), a run of ReversibleHeun", "`Reversible()`, a run of `ReversibleHeun`"
        )
        cells = [
            table["rows"][name][what]
            for table in audits["tables"]
            for what in ("from the run's", "from the flow's")
        ]
        cells = [0.0 if cell < 1e-6 else cell for cell in cells]
        yield Row(
            f"| {label if '`' in label else f'`{label}`'} |",
            first["calls"],
            first["vjps"],
            *cells,
            under="| strategy, N = 20 |",
        )


def acting(name: str) -> list[float]:
    return [100 * row["acting"] for row in controller[name].values()]


right = audits["estimate is right"]
everywhere = [100 * row["last row"] for rows in controller.values() for row in rows.values()]
gain = [a / b for a, b in zip(errors(EXACT, 10, "cond_error"), errors(OURS, 10, "cond_error"), strict=True)]
RK4 = "torchdiffeq rk4, t grid"

FIGURES = [
    *beside_the_flow(),
    *by_network(),
    *slopes(),
    *strategies(),
    Figure("relative error of dL/dx over {64} draws", results("gradients")["draws"]),
    Figure(
        "As multiples of 2M's exact discrete error at the start, {20} to {80} steps",
        *sorted({r["N"] for r in networks}),
    ),
    Figure(
        "the first column reaches {13} on the last row, the second {1.26} at most anywhere",
        max(ratios("perceptron as DATA", "EDMPEC", 1)),
        max(ratios("", "2M", 1)),
    ),
    Figure("{2.2} to {3.0} times better at 10 steps", min(gain), max(gain)),
    Figure("({0.21} to {0.23} at 5 of 10)", *sorted(errors("Continuous, M = N/2", 10))),
    Figure(
        "a cost of {161} network calls on (a VJP counted as two) RK4 through torchdiffeq, on a grid uniform in t, is level "
        "or better on this smooth field: {0.0022} and {0.0021} there, where `Continuous()` has {0.0018} and {0.0026} at {201}",
        errors(RK4, 10, "cost_F")[0],
        *errors(RK4, 10),
        *errors(OURS, 50),
        errors(OURS, 50, "cost_F")[0],
    ),
    Figure(
        "it is {0.30}, {0.08} and {0.02} % from the flow's gradient at eta while it acts, where `Checkpoint` is {10.9}, {5.5} "
        "and {2.8} %",
        *(value for name in ("Continuous(FlowHeun())", "Checkpoint()") for value in acting(name)),
    ),
    Figure("The last row is {79} to {89} % off", min(everywhere), max(everywhere)),
    Figure(
        "slopes {3.1} and {4.2} between 80 and 320", *(orders[f"AdjointDEIS({k})"]["slope"] for k in (3, 4))
    ),
    Figure(
        "Over {66} runs on mixtures, perceptrons and digits that nothing was chosen on it said for {74} % which of "
        "`Checkpoint()` and `Continuous()` is nearer to the flow ({74} % of the {51} where they differ by a quarter, {84} % of "
        "the {45} where `Checkpoint` is less than <10> % off; to say `Continuous` always is right for {47} %)",
        right["all"][1],
        100 * right["all"][0],
        100 * right["where they differ by a quarter"][0],
        right["where they differ by a quarter"][1],
        100 * right["where Checkpoint is less than 10 % off"][0],
        right["where Checkpoint is less than 10 % off"][1],
        100 * right["always Continuous"],
    ),
    Figure(
        "(RMS error {0.077} against {0.083}, {0.029} against {0.036}, `examples/sample.py`), worse from 24 on ({0.0100} against "
        "{0.0092}, {0.0030} against {0.0023} at 48)",
        *(rms[name][n] for n in (6, 12, 24, 48) for name in ("EDMPEC(s=0.5)", "DPMSolverPP(order=2)")),
    ),
]
STATED = [Stated("(spread of means <0.5> / <1.5>)", "the problem")]
