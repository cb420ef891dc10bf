"""What error_nfe.json says: the best of each method, where ours is behind, which one is near the best everywhere."""

import math
from typing import Any

NFE = (5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 100)
JUDGED = (6, 12, 24, 48)


def at(row: dict[int, float], n: int) -> float:
    """The error with n calls, or with up to three fewer where the method cannot spend just n."""
    return next((row[k] for k in range(n, n - 4, -1) if k in row), math.nan)


def best(rows: dict[str, dict[int, float]], n: int) -> float:
    """The least error of any spacing."""
    return min((v for v in (at(row, n) for row in rows.values()) if v == v), default=math.nan)


def best_of_all(found: dict[str, Any], n: int) -> float:
    """The least error of any method, ours or diffusers'."""
    values = [best(rows, n) for side in ("ours", "diffusers") for rows in found[side].values()]
    return min(v for v in values if v == v)


def behind(found: dict[str, Any]) -> list[tuple[str, int, float]]:
    """(method, calls, our error by diffusers') of each shared method where ours is the larger, best spacings."""
    ratios = [
        (name, n, best(found["ours"][name], n) / best(rows, n))
        for name, rows in found["diffusers"].items()
        for n in NFE
    ]
    return [(name, n, ratio) for name, n, ratio in ratios if ratio > 1]


def defaults(table: dict[str, Any]) -> list[tuple[str, str, dict[str, list[float]]]]:
    """(method, spacing, {problem: error by the best of all at JUDGED}) of ours, the least worst ratio first."""
    rows, least = [], {problem: [best_of_all(found, n) for n in JUDGED] for problem, found in table.items()}
    for name in next(iter(table.values()))["ours"]:
        for spacing in next(iter(table.values()))["ours"][name]:
            factors = {
                problem: [
                    at(found["ours"][name][spacing], n) / best
                    for n, best in zip(JUDGED, least[problem], strict=True)
                ]
                for problem, found in table.items()
            }
            if all(v == v for each in factors.values() for v in each):
                rows.append((name, spacing, factors))
    return sorted(rows, key=lambda row: max(max(each) for each in row[2].values()))
