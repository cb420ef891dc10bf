"""docs/reward-results.md, which benchmarks/reward.py writes."""

import statistics

from figures.figure import Generated
from figures.results import results, script

reward = script("reward")
RUNS = reward.grouped(results("reward"))


def end(name: str, what: str = "reward") -> float:
    """At the end of training, the mean over seeds."""
    return statistics.fmean(run["curve"][-1][what] for run in RUNS[name])


def base(name: str) -> float:
    return statistics.fmean(run["base_mean"] for run in RUNS[name])


def half(name: str) -> float:
    """The middle between the base's mean and the mean of its best of 64."""
    return statistics.fmean((run["base_mean"] + run["best_of_64"]) / 2 for run in RUNS[name])


def asked(name: str) -> int:
    """Rewards that training asked for."""
    return reward.queries(RUNS[name][0], RUNS[name][0]["updates"])


def closes(name: str) -> bool:
    """Whether it ends above that middle by three standard errors."""
    margin, error = reward.verdict(RUNS[name])
    return margin > 3 * error


FIGURES = [Generated(reward.page(results("reward")))]
STATED = []
