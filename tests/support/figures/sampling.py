"""What benchmarks/results/error_nfe.json says of methods on their spacings: errors by the least of all."""

import functools

from figures.results import results, script

judged = script("judged")
JUDGED = list(judged.JUDGED)


@functools.cache
def table():
    """{problem: {"ours", "diffusers": {method: {spacing: {calls: error}}}}}, calls as numbers."""
    return {
        problem: {
            side: {
                name: {way: {int(n): v for n, v in row.items()} for way, row in ways.items()}
                for name, ways in each[side].items()
            }
            for side in ("ours", "diffusers")
        }
        for problem, each in results("error_nfe")["rms"].items()
    }


rows = {(name, way): each for name, way, each in judged.defaults(table())}  # the least worst first
LEAST_WORST = max(v for each in next(iter(rows.values())).values() for v in each)
ours = table()["mixture"]["ours"]
METHODS, SPACINGS = len(ours), max(map(len, ours.values()))


def factors(method: str, spacing: str, calls: list[int]) -> list[float]:
    """Of the mixture, then of the digits."""
    return [row[JUDGED.index(n)] for row in rows[method, spacing].values() for n in calls]


def spread(method: str, spacing: str, calls: list[int]) -> tuple[float, float]:
    return min(found := factors(method, spacing, calls)), max(found)
