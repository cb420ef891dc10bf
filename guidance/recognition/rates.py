"""Error rates of a recogniser, and the threshold at one of them. A NaN is a failed acquisition and is left out."""

import torch
from torch import Tensor

from ...solvers.checked import checked
from ...solvers.kinds import described


@checked
def false_match_rate(impostors: Tensor, threshold: float) -> float:
    """FMR: the share of the distances (n,) between different people that lie under the threshold.

    Source: ISO/IEC 19795-1:2021; comparisons that did not take place (NaN) do not count.
    """
    return float((took_place("impostors", impostors) < threshold).double().mean())


@checked
def false_non_match_rate(genuine: Tensor, threshold: float) -> float:
    """FNMR: the share of the distances (n,) between images of one person that do not lie under the threshold.

    Source: ISO/IEC 19795-1:2021; comparisons that did not take place (NaN) do not count.
    """
    return float((took_place("genuine", genuine) >= threshold).double().mean())


@checked
def threshold_at(fmr: float, impostors: Tensor) -> float:
    """The largest threshold at which the false match rate is at most `fmr`.

    Of n distances that may be floor(fmr n): the threshold is the next one in rising order, and of equal ones none
    matches. Infinite at fmr = 1. Below fmr = 1/n it is the least distance, where no comparison matches: n distances
    say nothing of rates that small; `Calibration` gives the interval.

    Args:
        impostors: distances between different people (n,).

    Raises:
        ValueError: fmr not in [0, 1]; no distances.
    """
    check_fmr(fmr)
    distances = took_place("impostors", impostors).sort().values
    return weighted_threshold(fmr, distances, torch.ones_like(distances, dtype=torch.float64))


def weighted_threshold(fmr: float, rising: Tensor, weights: Tensor) -> float:
    """`threshold_at` where distance k of `rising` stands for weights[k] comparisons: the first distance with which
    the weight so far exceeds fmr times all of it.
    """
    below = weights.cumsum(0)
    allowed = fmr * below[-1] * (1 + 1e-12)  # 0.29 x 100 must be 29
    beyond = (below > allowed).nonzero()
    return float(rising[beyond[0, 0]]) if len(beyond) else float("inf")


def check_fmr(fmr: float) -> None:
    if not 0 <= fmr <= 1:
        raise ValueError(f"fmr: got {fmr}, expected a rate between 0 and 1; one per cent is 0.01")


def took_place(name: str, distances: Tensor) -> Tensor:
    """The distances that are not NaN. Raises ValueError unless they are (n,) and at least one is left."""
    if distances.ndim != 1 or not distances.is_floating_point() or distances.is_meta:
        raise ValueError(
            f"{name}: got {described(distances)} on {distances.device}, expected floating point distances (n,) on a "
            "device that holds numbers"
        )
    left = distances.detach()[~distances.detach().isnan()]
    if not len(left):
        raise ValueError(
            f"{name}: got {len(distances)} comparisons of which none took place, expected at least one distance; "
            "NaN stands for a failed acquisition"
        )
    return left
