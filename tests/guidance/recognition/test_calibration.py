"""Thresholds at a false match rate, and intervals over people."""

import math
from fractions import Fraction

import pytest
import torch

from pullback.guidance import (
    BlackBoxRecogniser,
    Calibration,
    Comparisons,
    Embedding,
    bootstrap,
    bootstrap_rate,
    false_match_rate,
    false_non_match_rate,
    threshold_at,
)

PEOPLE = Embedding(lambda x: x)  # images that are their own descriptors


def table(people: int, seed: int = 0, dim: int = 2) -> torch.Tensor:
    return torch.randn(people, dim, generator=torch.Generator().manual_seed(seed))


# thresholds
# ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", ["0", "0.01", "0.07", "0.1", "0.29", "0.5", "0.995", "1"])
@pytest.mark.parametrize("distinct", [3, 40, 10**6])
def test_the_threshold_is_the_largest_that_keeps_the_rate(rate, distinct):
    """By exact fractions, with few distinct values (ties) and with many."""
    generator = torch.Generator().manual_seed(distinct)
    distances = torch.randint(1, distinct + 1, (100,), generator=generator) / distinct
    found = threshold_at(float(rate), distances)

    def share(threshold):
        return Fraction(sum(d < threshold for d in distances.tolist()), 100)

    assert share(found) <= Fraction(rate)
    assert found == math.inf if rate == "1" else share(math.nextafter(found, math.inf)) > Fraction(rate)
    assert false_match_rate(distances, found) == float(share(found))


def test_rates_leave_failed_acquisitions_out():
    distances = torch.tensor([0.1, torch.nan, 0.4, 0.4, torch.nan, 0.9])
    assert false_match_rate(distances, 0.4) == 1 / 4 and false_non_match_rate(distances, 0.4) == 3 / 4
    assert threshold_at(0.25, distances) == 0.4 and threshold_at(0.74, distances) == 0.4
    assert threshold_at(0.75, distances) == 0.9 and threshold_at(0.0, distances) == 0.1


def test_comparisons_are_those_of_a_loop():
    images, people = table(6), torch.tensor([0, 0, 1, 2, 2, 2])
    found = Comparisons.among(PEOPLE, images, people)
    plain = [
        (float((images[a] - images[b]).norm()), int(people[a]), int(people[b]))
        for a in range(6)
        for b in range(a + 1, 6)
        if people[a] != people[b]
    ]
    assert [*zip(found.distances.tolist(), found.first.tolist(), found.second.tolist(), strict=True)] == plain
    again = Comparisons.same(PEOPLE, images, images + torch.tensor([3.0, 4.0]), people)
    assert torch.allclose(again.distances, torch.full((6,), 5.0)) and torch.equal(again.first, people)


# intervals
# ---------------------------------------------------------------------------------------------------------------


def test_the_interval_of_a_mean_is_that_of_the_normal_law():
    values = table(400, dim=3)
    found = bootstrap(lambda drawn: values[drawn].mean(0), 400, replicates=4000)
    half = 1.96 * values.std(0, correction=0) / 20
    assert torch.allclose(found.low, values.mean(0) - half, atol=0.1 * float(half.max()))
    assert torch.allclose(found.high, values.mean(0) + half, atol=0.1 * float(half.max()))
    again = bootstrap(lambda drawn: values[drawn].mean(0), 400, replicates=4000)
    assert torch.equal(found.low, again.low) and torch.equal(found.high, again.high)


def test_a_rate_that_no_resample_moves_has_the_exact_end():
    """None of 20, all of 20: the rate at which that has the chance of 5 per cent. Else it is the bootstrap's."""
    drawn_from = torch.stack([torch.zeros(20), torch.ones(20), (torch.arange(20) % 3 == 0).double()], 1)

    def rate(drawn):
        return drawn_from[drawn].mean(0)

    found, plain = bootstrap_rate(rate, 20, replicates=200), bootstrap(rate, 20, replicates=200)
    assert plain.low[1] == 1 and plain.high[0] == 0
    assert found.low[0] == 0 and (1 - float(found.high[0])) ** 20 == pytest.approx(0.05)
    assert found.high[1] == 1 and float(found.low[1]) ** 20 == pytest.approx(0.05)
    assert found.low[2] == plain.low[2] and found.high[2] == plain.high[2]
    one = bootstrap_rate(lambda drawn: 1.0, 8, level=0.9, replicates=3)
    assert float(one.low) == pytest.approx(0.1 ** (1 / 8)) and one.low.shape == ()
    with pytest.raises(ValueError, match="expected a rate in"):
        bootstrap_rate(lambda drawn: 40.0, 8, replicates=3)


@pytest.mark.parametrize("fmr", [0.0, 0.2])
@pytest.mark.parametrize("failed", [False, True])
def test_a_calibration_is_that_of_tables_written_out(failed, fmr):
    """Every resample of people as the table of all its pairs, by loops; a person twice is no pair with itself."""
    images, others = table(9), table(9) + 0.3 * table(9, seed=1)
    impostors, genuine = Comparisons.among(PEOPLE, images), Comparisons.same(PEOPLE, images, others)
    if failed:
        impostors.distances[3:7], genuine.distances[2] = torch.nan, torch.nan
    found = Calibration.of(fmr, impostors, genuine, level=0.9, replicates=30, seed=5)
    known = {
        (int(a), int(b)): d
        for d, a, b in zip(impostors.distances, impostors.first, impostors.second, strict=True)
    }
    thresholds, rates, missed = [], [], []
    for drawn in torch.randint(9, (30, 9), generator=torch.Generator().manual_seed(5)).tolist():
        pairs = [known[min(a, b), max(a, b)] for k, a in enumerate(drawn) for b in drawn[k + 1 :] if a != b]
        at = threshold_at(fmr, torch.stack(pairs))
        thresholds.append(at)
        rates.append(false_match_rate(torch.stack(pairs), found.threshold))
        missed.append(false_non_match_rate(genuine.distances[drawn], at))
    figures = [(found.thresholds, thresholds), (found.fnmrs, missed)]
    figures += [(found.rates, rates)] if fmr else []  # where nothing matches, the rule of three has the word
    for interval, plain in figures:
        rising = sorted(plain)
        # quantile 0.05 of 30 lies at 1.45, quantile 0.95 at 27.55 of the places 0 .. 29
        assert math.isclose(interval.low, rising[1]) and math.isclose(interval.high, rising[28])
    assert found.threshold == threshold_at(fmr, impostors.distances)
    assert found.fnmr == false_non_match_rate(genuine.distances, found.threshold)
    assert found.comparisons == int((~impostors.distances.isnan()).sum())


def test_intervals_over_people_hold_the_true_threshold_and_those_over_pairs_do_not():
    """Descriptors N(0, I) in the plane: P(d < t) = 1 - exp(-t^2/4) for two people, in closed form."""
    true, runs, people = math.sqrt(-4 * math.log(1 - 0.05)), 20, 40
    held = naive = 0
    for seed in range(runs):
        impostors = Comparisons.among(PEOPLE, table(people, seed=seed))
        found = Calibration.of(0.05, impostors, replicates=100)
        held += bool(found.thresholds.low <= true <= found.thresholds.high)
        pairs = bootstrap(
            lambda drawn, all=impostors.distances: torch.tensor(threshold_at(0.05, all[drawn])),
            len(impostors.distances),
            replicates=100,
        )
        naive += bool(pairs.low <= true <= pairs.high)
    assert held >= 0.9 * runs, held
    assert naive < 0.85 * runs, naive


def test_the_interval_says_that_few_people_cannot_carry_a_small_rate():
    """100 people have 4950 comparisons: 4 may match at 0.1 per cent. 20 have 190: none may."""
    rates = {}
    for people in (20, 100):
        found = Calibration.of(0.001, Comparisons.among(PEOPLE, table(people, dim=8)), replicates=300)
        rates[people] = found.rates
    assert math.isclose(rates[20].low, 0) and math.isclose(rates[20].high, 1 - 0.05 ** (1 / 10))
    assert rates[100].high > 0.0015 and rates[100].low < 0.0005


def test_no_error_among_few_people_is_no_proof():
    """The rule of three: 0 errors of m independent comparisons leave rates below 3/m or so."""
    images = table(30, dim=8)
    impostors, genuine = Comparisons.among(PEOPLE, images), Comparisons.same(PEOPLE, images, images + 1e-3)
    genuine.distances[4] = torch.nan
    found = Calibration.of(0.1, impostors, genuine, replicates=50)
    assert found.fnmr == 0 and float(found.fnmrs.low) == 0
    assert math.isclose(found.fnmrs.high, 1 - 0.05 ** (1 / 29)) and found.fnmrs.high < 3.1 / 29


def test_failures_of_a_black_box_are_known():
    box = BlackBoxRecogniser(lambda x: torch.where(torch.arange(len(x))[:, None] == 2, torch.nan, x))
    impostors = Comparisons.among(box, table(5))
    assert impostors.distances.isnan().sum() == 4
    assert Calibration.of(0.5, impostors, replicates=50).comparisons == 6


def test_what_is_wrong_is_refused_in_words():
    impostors, genuine = Comparisons.among(PEOPLE, table(5)), Comparisons.same(PEOPLE, table(5), table(5))
    for words, call in (
        ("one per cent is 0.01", lambda: threshold_at(1.5, torch.ones(3))),
        ("one per cent is 0.01", lambda: Calibration.of(-0.1, impostors)),
        ("none took place", lambda: threshold_at(0.1, torch.full((3,), torch.nan))),
        ("none took place", lambda: false_match_rate(torch.ones(0), 0.1)),
        (r"distances \(n,\)", lambda: false_non_match_rate(torch.ones(2, 2), 0.1)),
        ("floating point", lambda: threshold_at(0.1, torch.ones(3, dtype=torch.int64))),
        ("expected different people", lambda: Calibration.of(0.1, genuine)),
        ("expected the same one", lambda: Calibration.of(0.1, impostors, impostors)),
        ("whole numbers", lambda: Comparisons(torch.ones(3), torch.zeros(3), torch.zeros(3))),
        ("one number for each image", lambda: Comparisons.among(PEOPLE, table(5), torch.arange(4))),
        ("one for each", lambda: Comparisons.same(PEOPLE, table(5), table(4))),
        ("2 or more units", lambda: bootstrap(lambda drawn: drawn.double().mean(), 1)),
        ("0 < level < 1", lambda: Calibration.of(0.1, impostors, level=95.0)),
        ("NaN in every replicate", lambda: bootstrap(lambda drawn: torch.tensor(torch.nan), 5)),
    ):
        with pytest.raises(ValueError, match=words):
            call()
