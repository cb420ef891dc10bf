"""A threshold at a false match rate, and how well the people at hand determine it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers.checked import checked
from .comparisons import Comparisons
from .intervals import Interval, bootstrap, rule_of_three
from .rates import check_fmr, false_non_match_rate, threshold_at, weighted_threshold


@dataclass(frozen=True, eq=False)
class Calibration:
    """A recogniser's threshold at a false match rate. Made by `Calibration.of`; intervals are over people.

    Attributes:
        fmr: asked for.
        threshold: the largest at which the comparisons at hand have at most that FMR.
        thresholds: interval of the threshold. At an FMR that the comparisons hardly resolve its lower end is too high:
            no resample contains a smaller distance than the least one seen, and of two people, one comparison, the
            interval has length 0.
        rates: interval of the FMR at `threshold`.
        fnmr, fnmrs: FNMR at `threshold` and its interval, in which the threshold moves with the resample; NaN
            without genuine comparisons.
        comparisons: between different people, of those that took place.
    """

    fmr: float
    threshold: float
    thresholds: Interval
    rates: Interval
    fnmr: float
    fnmrs: Interval
    comparisons: int

    @classmethod
    @checked
    def of(
        cls,
        fmr: float,
        impostors: Comparisons,
        genuine: Comparisons | None = None,
        level: float = 0.95,
        replicates: int = 1000,
        seed: int = 0,
    ) -> "Calibration":
        """Calibrate on comparisons between different people, and judge on those of the same.

        A bootstrap over people: a resample in which person i was drawn c_i times has the comparison of i and j c_i c_j
        times, and the genuine ones of i c_i times. These intervals err on the long side. Where not one comparison is
        an error, no resample has one: the upper end is then that of the rule of three, 1 - (1 - level)^(1/m) with m
        independent comparisons: people // 2 between different ones, one for each person with genuine ones.

        Source: Bolle, Ratha and Pankanti 2004, Computer Vision and Image Understanding 93(1) (subsets bootstrap);
        Doddington et al. 2000, Speech Communication 31(2-3) (rule of three). Cost: a sort, then `replicates` sums.

        Raises:
            ValueError: fmr not in [0, 1]; no comparison that took place; people of the wrong kind.
        """
        check_fmr(fmr)
        _check_people(impostors, genuine)
        threshold = threshold_at(fmr, impostors.distances)
        people = max(each.people for each in (impostors, genuine) if each is not None)
        rising = _took_place(impostors)
        match = rising.distances < threshold
        same = None if genuine is None else _took_place(genuine)

        def figures(drawn: Tensor) -> Tensor:
            times = torch.bincount(drawn, minlength=people).double().to(rising.distances.device)
            weights = times[rising.first] * times[rising.second]
            if not bool(weights.any()):
                return torch.full((3,), torch.nan)
            at = weighted_threshold(fmr, rising.distances, weights)
            missed = torch.nan if same is None else float(_share(same.distances >= at, times[same.first]))
            return torch.tensor([at, float(_share(match, weights)), missed])

        # without genuine comparisons the third figure is NaN throughout: it is not asked for
        wanted = slice(0, 3 if same is not None else 2)
        found = bootstrap(lambda drawn: figures(drawn)[wanted], people, level, replicates, seed)
        if not bool(match.any()):
            found.high[1] = rule_of_three(level, people // 2)
        if same is not None and not bool((same.distances >= threshold).any()):
            found.high[2] = max(found.high[2], rule_of_three(level, len(same.first.unique())))
        nothing = Interval(*torch.full((2,), torch.nan, dtype=torch.float64))
        return cls(
            fmr,
            threshold,
            Interval(found.low[0], found.high[0]),
            Interval(found.low[1], found.high[1]),
            torch.nan if genuine is None else false_non_match_rate(genuine.distances, threshold),
            nothing if genuine is None else Interval(found.low[2], found.high[2]),
            len(rising.distances),
        )


def _took_place(given: Comparisons) -> Comparisons:
    """Those that are not NaN, in rising order."""
    distances, order = given.distances.detach().sort()  # NaN last
    order = order[: int((~distances.isnan()).sum())]
    return Comparisons(given.distances.detach()[order], given.first[order], given.second[order])


def _share(which: Tensor, weights: Tensor) -> Tensor:
    """The weighted share; NaN where all weights are zero."""
    return (which * weights).sum() / weights.sum()


def _check_people(impostors: Comparisons, genuine: Comparisons | None) -> None:
    if bool((impostors.first == impostors.second).any()):
        raise ValueError(
            "impostors: got comparisons of a person with the same one, expected different people; "
            "Comparisons.among makes them, genuine= takes the others"
        )
    if genuine is not None and bool((genuine.first != genuine.second).any()):
        raise ValueError(
            "genuine: got comparisons of different people, expected the same one in both images; "
            "Comparisons.same makes them"
        )
