"""Metrics of morphs on tables written by hand, and on drawn ones against loops over the published formulas."""

import pytest
import torch

from pullback.guidance import (
    BlackBoxRecogniser,
    Embedding,
    MorphScores,
    bootstrap,
    mmpmr_min_max,
    mmpmr_prod_avg,
    morphing_attack_potential,
    rmmr,
)

NAN = torch.nan
# by one recogniser at the threshold 0.5; of morph, subject and probe
BY_HAND = MorphScores(
    torch.tensor([
        [[0.4, 0.6, 0.7], [0.3, 0.2, 0.9]],  # 1 of 3 and 2 of 3 match
        [[0.5, 0.5, 0.5], [0.1, 0.1, 0.1]],  # ties: at the threshold is not under it
        [[0.4, NAN, NAN], [0.2, 0.6, NAN]],  # 1 of 1 and 1 of 2
        [[NAN, NAN, NAN], [0.1, 0.1, 0.1]],  # a subject who was never acquired
    ])[..., None],
    torch.tensor([0.5]),
)  # fmt: skip


def test_a_table_worked_by_hand():
    assert mmpmr_min_max(BY_HAND).tolist() == [2 / 4]
    assert torch.allclose(mmpmr_prod_avg(BY_HAND), torch.tensor([(2 / 9 + 0 + 1 / 2 + 0) / 4]))
    assert morphing_attack_potential(BY_HAND).tolist() == [[2 / 4], [0], [0]]
    counted = BY_HAND.failures_as_non_matches()
    assert mmpmr_min_max(counted).tolist() == [2 / 4]
    assert torch.allclose(mmpmr_prod_avg(counted), torch.tensor([(2 / 9 + 0 + 1 / 9 + 0) / 4]))


def test_one_probe_a_subject_is_the_plain_rate():
    one = MorphScores(BY_HAND.distances[:, :, :1], BY_HAND.thresholds)
    plain = sum(max(pair) < 0.5 for pair in ([0.4, 0.3], [0.5, 0.1], [0.4, 0.2])) / 4
    assert mmpmr_min_max(one).tolist() == mmpmr_prod_avg(one).tolist() == [plain] == [2 / 4]
    assert morphing_attack_potential(one).tolist() == [[plain]]


def test_relative_rates():
    """A recogniser that finds 30 of 100 people again and accepts 20 of 100 morphs is fooled by 2 in 3 of those."""
    assert torch.allclose(rmmr(torch.tensor([0.2, 1.0]), torch.tensor([0.7, 0.0])), torch.tensor([0.9, 1.0]))


def drawn(seed: int, subjects: int = 2) -> MorphScores:
    """Distances of a few values, so that many are equal to a threshold, and with one in four missing."""
    generator = torch.Generator().manual_seed(seed)
    shape = (7, subjects, 4, 3)
    distances = torch.randint(0, 6, shape, generator=generator) / 5
    distances[torch.rand(shape, generator=generator) < 0.25] = NAN
    return MorphScores(distances, torch.tensor([0.6, 0.8, 0.4]))


@pytest.mark.parametrize("subjects", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_drawn_tables_against_loops(seed, subjects):
    scores = drawn(seed, subjects)
    morphs, people, probes, recognisers = scores.distances.shape
    # similarities, as the papers have them; what was not acquired is left out
    table = [
        [
            [[-float(d) for d in scores.distances[m, s, :, f] if not d.isnan()] for f in range(recognisers)]
            for s in range(people)
        ]
        for m in range(morphs)
    ]
    taus = [-float(t) for t in scores.thresholds]
    for f, tau in enumerate(taus):
        count, total = 0, 0.0
        for morph in table:
            best = [max(row[f]) if row[f] else float("-inf") for row in morph]
            count += min(best) > tau
            product = 1.0
            for row in morph:
                product *= sum(s > tau for s in row[f]) / len(row[f]) if row[f] else 0
            total += product
        assert torch.isclose(mmpmr_min_max(scores)[f], torch.tensor(count / morphs))
        assert torch.isclose(mmpmr_prod_avg(scores)[f], torch.tensor(total / morphs))
    potential = morphing_attack_potential(scores)
    assert potential.shape == (probes, recognisers)
    for r in range(1, probes + 1):
        for c in range(1, recognisers + 1):
            fooled = 0
            for morph in table:
                systems = 0
                for f, tau in enumerate(taus):
                    systems += all(sum(s > tau for s in row[f]) >= r for row in morph)
                fooled += systems >= c
            assert torch.isclose(potential[r - 1, c - 1], torch.tensor(fooled / morphs))


def test_the_potential_falls_with_attempts_and_recognisers_and_begins_at_the_rate():
    for seed in range(4):
        scores = drawn(seed)
        potential = morphing_attack_potential(scores)
        assert (potential.diff(dim=0) <= 0).all() and (potential.diff(dim=1) <= 0).all()
        assert (
            potential[0, 0] >= mmpmr_min_max(scores).max() and potential[0, -1] <= mmpmr_min_max(scores).min()
        )
        alone = MorphScores(scores.distances[..., :1], scores.thresholds[:1])
        assert torch.equal(morphing_attack_potential(alone)[0], mmpmr_min_max(alone))


def test_an_interval_over_morphs():
    scores = drawn(0)
    found = bootstrap(lambda morphs: mmpmr_min_max(scores.take(morphs)), 7, replicates=200)
    assert found.low.shape == (3,) and (found.low <= mmpmr_min_max(scores)).all()
    assert (found.high >= mmpmr_min_max(scores)).all()


def test_the_table_is_that_of_a_loop():
    """Two recognisers, one of which cannot read some images; probes that a subject does not have."""
    generator = torch.Generator().manual_seed(0)
    morphs, probes = (torch.randn(shape, generator=generator) for shape in ((3, 1, 2, 2), (3, 2, 4, 1, 2, 2)))
    probes[1, 0, 2:] = NAN
    probes[2, 1, 3, 0, 0, 0] = NAN
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))

    def picky(images):
        flat = images.flatten(1)
        return torch.where(flat.sum(1, keepdim=True) > 1.5, NAN, flat)

    recognisers = [Embedding(net, threshold=0.7), BlackBoxRecogniser(picky, threshold=1.2)]
    scores = MorphScores.compare(recognisers, morphs.requires_grad_(), probes)
    assert scores.thresholds.tolist() == [0.7, 1.2] and not scores.distances.requires_grad
    missing = 0
    for m in range(3):
        for s in range(2):
            for p in range(4):
                for f, describe in enumerate((net, picky)):
                    a, b = (describe(v.detach()[None])[0] for v in (morphs[m], probes[m, s, p]))
                    plain = (a - b).square().sum().sqrt()
                    missing += bool(plain.isnan())
                    assert torch.isclose(scores.distances[m, s, p, f], plain, equal_nan=True)
    assert 6 < missing < 24
    assert torch.equal(scores.took_place, ~scores.distances.isnan())


def test_what_is_wrong_is_refused_in_words():
    morphs, probes = torch.zeros(3, 1, 2, 2), torch.zeros(3, 2, 4, 1, 2, 2)
    flat = Embedding(lambda x: x.flatten(1))
    for words, call in (
        ("each with a threshold", lambda: MorphScores.compare([flat], morphs, probes)),
        ("at least one recogniser", lambda: MorphScores.compare([], morphs, probes)),
        ("subjects, probes", lambda: MorphScores.compare([flat], morphs, probes[:2])),
        ("subjects, probes", lambda: MorphScores.compare([flat], morphs, probes[:, 0])),
        ("subjects, probes", lambda: MorphScores.compare([flat], morphs, torch.zeros(3, 2, 4, 1, 2, 3))),
        ("none of them 0", lambda: MorphScores(torch.zeros(3, 2, 4), torch.zeros(4))),
        ("none of them 0", lambda: MorphScores(torch.zeros(3, 2, 4, 2), torch.zeros(1))),
        ("none of them 0", lambda: MorphScores(torch.zeros(0, 2, 4, 2), torch.zeros(2))),
        ("one rate per recogniser", lambda: rmmr(torch.ones(2), torch.ones(3))),
        ("threshold of NaN", lambda: MorphScores(torch.zeros(3, 2, 4, 1), torch.tensor([NAN]))),
    ):
        with pytest.raises(ValueError, match=words):
            call()
