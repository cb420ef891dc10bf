"""Regeneration distances where they are known: on Gaussian data there and back is one affine map."""

import pytest
import torch
from problems import MIXTURE, PROCESS

from pullback.guidance import purify, regeneration_distance
from pullback.solvers import DDIM, DDPM, DPMSolverPP, Gaussian, Rising, UniformLambda

GRID = UniformLambda(8, start=0.9, end=0.03)


def round_trip(variance, times):
    """The factor of an axis of this variance by DDIM up and down again, step by step."""
    levels = [
        (float(PROCESS.alpha(t)), float(PROCESS.sigma(t))) for t in torch.tensor(times, dtype=torch.float64)
    ]
    path, factor = levels[::-1] + levels[1:], 1.0
    for (a, s), (b, u) in zip(path, path[1:], strict=False):
        k = a * variance / (a**2 * variance + s**2)
        factor *= b * k + u * (1 - a * k) / s
    return factor


def test_a_gaussian_has_a_known_distance():
    mean, variances = torch.tensor([0.4, -0.3, 0.1]), torch.tensor([0.1, 0.5, 2.0])
    data, plan = Gaussian(mean, variances.diag()), DDIM().plan(PROCESS, GRID)
    images = data.mean + torch.randn(4000, 3) * variances.sqrt()
    alpha = float(PROCESS.alpha(torch.tensor(plan.times[-1])))
    found = regeneration_distance(data.denoiser(PROCESS), plan, images)
    lost = 1 - torch.tensor([round_trip(float(v), plan.times) for v in variances])
    exact = (lost * (images - alpha * mean)).square().mean(1).sqrt()
    assert torch.allclose(found, exact, atol=1e-10) and float(exact.mean()) > 1e-3
    # in distribution its mean square is known too
    square = (lost**2 * (variances + (1 - alpha) ** 2 * mean**2)).mean()
    assert float(found.square().mean()) == pytest.approx(float(square), rel=0.1)


def test_what_the_model_does_not_know_lies_further_from_its_regeneration():
    plan, model = DDIM().plan(PROCESS, GRID), MIXTURE.denoiser(PROCESS)
    inside = (
        MIXTURE.means[torch.arange(300) % 3]
        + torch.randn(300, 2) * MIXTURE.spread[torch.arange(300) % 3, None]
    )
    outside = inside + torch.tensor([3.0, 3.0])
    near, far = (regeneration_distance(model, plan, x) for x in (inside, outside))
    assert float(far.median()) > 2 * float(near.median())
    finer = DDIM().plan(PROCESS, UniformLambda(64, start=0.9, end=0.03))
    assert float(regeneration_distance(model, finer, inside).median()) < 0.3 * float(near.median())


def test_by_sample_and_for_other_plans():
    model, images = MIXTURE.denoiser(PROCESS), torch.randn(3, 2)
    plan = DPMSolverPP(2).plan(PROCESS, GRID)
    whole = regeneration_distance(model, plan, images)
    assert torch.allclose(whole[1:2], regeneration_distance(model, plan, images[1:2]), atol=1e-12)
    with pytest.raises(ValueError, match="draws noise"):
        regeneration_distance(model, DDPM().plan(PROCESS, GRID), images)


def test_a_plan_that_rises_is_refused():
    rising, x = DDIM().plan(PROCESS, Rising(UniformLambda(4, start=0.9, end=0.05))), torch.zeros(1, 2)
    with pytest.raises(ValueError, match="regeneration_distance: got DDIM.*rises from data to noise"):
        regeneration_distance(MIXTURE.denoiser(PROCESS), rising, x)
    with pytest.raises(ValueError, match="purify: got DDIM.*rises from data to noise"):
        purify(MIXTURE.denoiser(PROCESS), rising, x, x)
