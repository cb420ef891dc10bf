"""Intervals against exact sums, and certificates where the true radius is known."""

from fractions import Fraction
from math import comb, log

import pytest
import torch
from problems import MIXTURE, PROCESS

from pullback.guidance import Proportion, certify, one_step_denoise
from pullback.solvers import EDM, FLOW, NOISE, Addressed, Denoiser, Gaussian, RectifiedFlow, V, convert

NORMAL = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0)


def at_least(k, n, p):
    """P(at least k of n) in fractions."""
    p = Fraction(p)
    return sum(comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(k, n + 1))


@pytest.mark.parametrize("k, n", [(0, 5), (1, 5), (5, 5), (17, 60), (60, 60), (199, 200)])
def test_clopper_pearson_cuts_off_the_tails(k, n):
    low, high = Proportion(k, n).clopper_pearson(0.9)
    assert (low == 0) == (k == 0) and (high == 1) == (k == n)
    if k:
        assert float(at_least(k, n, low)) == pytest.approx(0.05, rel=1e-9)
    if k < n:  # at most k of n
        assert float(1 - at_least(k + 1, n, high)) == pytest.approx(0.05, rel=1e-9)
    if k == n:
        assert low == pytest.approx(0.05 ** (1 / n), rel=1e-12)


def test_clopper_pearson_of_many_draws():
    """100,000 draws, as in the papers: all answered alike gives alpha^(1/n)."""
    low, _ = Proportion(100_000, 100_000).clopper_pearson(0.998)
    assert log(low) == pytest.approx(log(0.001) / 100_000, rel=1e-6)


def test_wilson_solves_its_equation():
    z = float(NORMAL.icdf(torch.tensor(0.975)))
    for k, n in ((3, 20), (0, 7), (7, 7), (2.5, 9)):
        for p in Proportion(k, n).wilson():
            if 1e-9 < p < 1 - 1e-9:
                assert abs(k / n - p) == pytest.approx(z * (p * (1 - p) / n) ** 0.5, rel=1e-9)
    assert Proportion(0, 7).wilson()[0] == pytest.approx(0, abs=1e-12)
    assert Proportion(7, 7).wilson()[1] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("p", [0.07, 0.5, 0.93])
def test_coverage_of_both(p):
    """Over all outcomes, weighted by their probability: exact, no draws."""
    n = 40
    weights = [comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]

    def coverage(name):
        ends = [getattr(Proportion(k, n), name)(0.95) for k in range(n + 1)]
        return sum(w for w, (low, high) in zip(weights, ends, strict=True) if low <= p <= high)

    assert coverage("clopper_pearson") >= 0.95 and coverage("wilson") >= 0.92


# certificates
# --------------------------------------------------------------------------------------------------------------

W, OFFSET = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64), 0.3


def linear(x):
    """Two classes on either side of w x + b = 0."""
    side = x @ W + OFFSET
    return torch.stack([-side, side], 1)


def distance(x):
    """The true radius of a half space: to its boundary, whatever sigma is."""
    return (x @ W + OFFSET).abs() / W.norm()


def test_the_radius_of_a_linear_classifier():
    """P(answer = side) = Phi(distance/sigma), so that the certified radius tends to the distance, from below."""
    x = torch.tensor([[1.0, 0.4, -0.2], [-0.6, 0.2, 0.5], [0.1, 0.5, 0.0]])
    found = certify(linear, x, 0.5, draws=4000, alpha=0.001)
    assert torch.equal(found.labels, linear(x).argmax(1)) or found.labels[2] == -1
    short = distance(x) - found.radius
    assert bool((short >= 0).all()) and bool((short[:2] < 0.1).all())
    assert found.calls == 3 * 4100


def test_coverage_is_at_least_one_minus_alpha():
    """400 images at all distances, alpha = 0.05: a radius beyond the true one is the error that alpha bounds."""
    alpha, x = 0.05, torch.randn(400, 3)
    found = certify(linear, x, 0.7, draws=60, selection=10, alpha=alpha, noise=Addressed(3))
    answered = found.labels >= 0
    wrong = answered & ((found.radius > distance(x)) | (found.labels != linear(x).argmax(1)))
    low, _ = Proportion(int(wrong.sum()), 400).clopper_pearson(0.99)
    assert low <= alpha and int(wrong.sum()) > 0 and 100 < int(answered.sum()) < 400


def test_the_answer_is_chosen_on_draws_of_its_own():
    """Chosen on draws that count too, the bound would not hold."""
    seen = []

    def classifier(x):
        seen.extend(x[:, 0].tolist())
        return linear(x)

    certify(classifier, torch.zeros(1, 3), 0.5, draws=40, selection=15)
    assert len(seen) == len(set(seen)) == 55


def test_the_fewest_draws_that_can_answer():
    """All of n draws agree: the bound alpha^(1/n) must exceed 1/2."""
    for alpha, least in ((0.001, 10), (0.05, 5), (0.5, 2)):
        far = torch.full((1, 3), 9.0) * W
        assert int(certify(linear, far, 0.1, draws=least, selection=5, alpha=alpha).labels) == 1
        with pytest.raises(ValueError, match="draws: got"):
            certify(linear, far, 0.1, draws=least - 1, selection=5, alpha=alpha)


def test_what_lies_on_the_boundary_is_abstained_from():
    x = -OFFSET * W[None] / W.square().sum()
    found = certify(linear, x, 0.5, draws=500)
    assert int(found.labels) == -1 and float(found.radius) == 0


def test_the_same_for_any_chunks_and_batch_mates():
    x = torch.randn(4, 3)
    whole = certify(linear, x, 0.5, draws=70, selection=30)
    parts = certify(linear, x, 0.5, draws=70, selection=30, at_once=7)
    alone = certify(linear, x[2:3], 0.5, draws=70, selection=30, noise=Addressed(0, samples=[2]))
    assert torch.equal(whole.p_lower, parts.p_lower) and torch.equal(whole.p_lower[2:3], alone.p_lower)
    assert whole.accuracy(linear(x).argmax(1), 0.1) == Proportion(int((whole.radius > 0.1).sum()), 4)


@pytest.mark.parametrize(
    "prediction, process", [(NOISE, PROCESS), (V, PROCESS), (FLOW, RectifiedFlow()), (V, EDM())]
)
def test_one_step_denoising_is_the_posterior_mean(prediction, process):
    """E[x_0 | x_0 + sigma eps] of the mixture, whatever the process and the prediction."""
    exact = MIXTURE.denoiser(process)

    def network(x, t):
        return convert(exact(x, t), x, exact.prediction, prediction, process, t)

    model, noisy = Denoiser(network, process, prediction), torch.randn(5, 2)
    for sigma in (0.1, 0.5, 2.0):
        wanted = MIXTURE.denoise(noisy, 1.0, sigma)
        assert torch.allclose(one_step_denoise(model, noisy, sigma), wanted, atol=1e-9)
    with pytest.raises(ValueError, match="the noise levels"):
        one_step_denoise(model, noisy, -1.0)


def test_denoised_smoothing_of_gaussian_data():
    """D is affine along w, so the denoised linear classifier is another linear one, whose radius is known."""
    data = Gaussian(torch.tensor([0.2, -0.1, 0.4]), 0.6 * torch.eye(3))
    model, sigma = data.denoiser(PROCESS), 0.5
    gain = 0.6 / (0.6 + sigma**2)  # D(x) = m + gain (x - m)
    x = torch.tensor([[1.0, 0.4, -0.2], [-1.6, 0.2, 0.5]])
    offset = (1 - gain) * data.mean @ W + OFFSET
    true = (gain * x @ W + offset).abs() / (gain * W.norm())
    found = certify(lambda noisy: linear(one_step_denoise(model, noisy, sigma)), x, sigma, draws=4000)
    assert bool((found.radius <= true).all()) and bool((true - found.radius < 0.2).all())


@pytest.mark.parametrize("call, words", [
    (lambda: certify(linear, torch.zeros(1, 3), 0.0), "sigma > 0"),
    (lambda: certify(linear, torch.zeros(1, 3), 0.5, alpha=1.0), "alpha < 1"),
    (lambda: certify(lambda x: x[0], torch.zeros(1, 3), 0.5), "expected logits"),
    (lambda: certify(linear, torch.zeros(1, 3), 0.5, draws=9, selection=5), "draws: got 9, expected 10 or more"),
    (lambda: certify(linear, torch.zeros(1, 3), 0.5, draws=10, selection=5).accuracy(torch.zeros(2)),
     r"labels: got \(2,\), expected \(1,\)"),
    (lambda: one_step_denoise(MIXTURE.denoiser(PROCESS), torch.zeros(1, 2), 0.0),
     "sigma: got 0.0, expected above 0 and"),
    (lambda: Proportion(3, 2), "0 to all"),
    (lambda: Proportion(2.5, 5).clopper_pearson(), "whole number"),
    (lambda: Proportion(2, 5).wilson(1.0), "a probability"),
])  # fmt: skip
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
    with pytest.raises(FloatingPointError, match="not finite"):
        certify(lambda x: linear(x) * torch.nan, torch.zeros(1, 3), 0.5)
