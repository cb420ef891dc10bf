"""docs/second-order.md"""

from figures.figure import Figure, Stated
from figures.results import results

found, directions = results("levenberg"), results("directions")
rows = {name: runs[0] for name, runs in found["rows"].items()}
prices = [row["prices"] for name, row in rows.items() if not name.startswith("mixture")]  # the bundled UNets
adam, lbfgs = ([row[f"beside {name}"]["mean"] for row in rows.values()] for name in ("Adam", "L-BFGS"))
priced = [row[f"beside {name}"]["priced"] for row in rows.values() for name in ("Adam", "L-BFGS")]
cases = 2 * directions["count"]  # a step there and a step back

FIGURES = [
    Figure(
        "JVP took {4.4} to {4.7} forward calls on a shared CPU (`benchmarks/levenberg.py`), a VJP {0.6} to {0.8}",
        *(pick(price[name] for price in prices) for name in ("jvp", "vjp") for pick in (min, max)),
    ),
    Figure("{six} of its eight problems so far, at most {2400} calls", len(rows), found["budget"]),
    Figure(
        "{1.1} to {4.5} times fewer calls on {five}, and on {one} never; to where `lbfgs()` ends {3.8} and {4.0} times fewer "
        "on {two} mixtures, as many on one, more on {two} ({0.75} and {0.64}), and on {one} not within a per cent",
        min(ratio for ratio in adam if ratio),
        max(adam),
        sum(ratio > 0 for ratio in adam),
        adam.count(0),
        *(ratio for ratio in lbfgs if ratio > 2),
        sum(ratio > 2 for ratio in lbfgs),
        sum(0 < ratio < 0.9 for ratio in lbfgs),
        *(ratio for ratio in lbfgs if 0 < ratio < 0.9),
        lbfgs.count(0),
    ),
    Figure("ahead in {three} of these {twelve} comparisons", sum(ratio > 1 for ratio in priced), len(priced)),
    Figure(
        "it is {5} times what a random direction does, two directions hold {64} % of |J|_F^2, and a step of {3}, the noise "
        "being 8 long, makes another digit in {8} of {12} cases, a random one in {3}",
        directions["gain"],
        100 * directions["share"],
        directions["length"],
        cases * directions["v1"]["another_digit"],
        cases,
        cases * directions["random"]["another_digit"],
    ),
]
STATED: list[Stated] = []
