"""docs/inverse.md, which benchmarks/inverse.py writes."""

from figures.figure import Generated
from figures.results import results, script

PROBLEMS = results("inverse")["problems"]
ORACLE = "oracle: true p(y given x_t)"
OTHERS = ("floor", "oracle", "SMC", "SVDD", "best of", "prior")


def by_oracle(method: str) -> list[float]:
    """Distance on each problem by the oracle's."""
    return [rows[method]["mean"] / rows[ORACLE]["mean"] for rows in PROBLEMS.values()]


def best_guide() -> list[float]:
    """Of the guides without particles the least on each problem, by the oracle's."""
    names = [name for name in next(iter(PROBLEMS.values())) if not name.startswith(OTHERS)]
    return [min(each) for each in zip(*map(by_oracle, names), strict=True)]


FIGURES = [Generated(script("inverse").page(results("inverse")))]
STATED = []
