"""Singular directions of a sampler, against closed forms and the dense Jacobian."""

from typing import cast

import pytest
import torch
from problems import MIXTURE, PROCESS

from pullback.adjoint import DoubleBackward, ForwardMode, linearised, sample, singular_directions
from pullback.solvers import (
    DATA,
    DDIM,
    DDPM,
    Addressed,
    Denoiser,
    DPMSolverPP,
    Gaussian,
    Mixture,
    UniformLambda,
    UniformT,
)

PLAN = DPMSolverPP(2).plan(PROCESS, UniformT(4, start=0.9, end=0.05))
TIMES = cast(tuple[float, ...], PLAN.times)


def dense(model, plan, x, noise=None):
    """(B, d, d)."""
    return torch.stack(
        [
            torch.func.jacfwd(lambda row: sample(model, plan, row[None], noise=noise, gradient=None)[0])(row)
            for row in x
        ]
    )


def test_gaussian_data_in_closed_form():
    """One DDIM step on data N(0, C) is linear: its singular vectors are C's eigenvectors."""
    root = torch.randn(6, 6)
    cov = root @ root.T / 6 + 0.05 * torch.eye(6)
    plan = DDIM().plan(PROCESS, UniformLambda(1, start=0.8, end=0.1))
    (a, s), (b, r) = (
        (float(PROCESS.alpha(t)), float(PROCESS.sigma(t))) for t in cast(tuple[float, ...], plan.times)
    )
    values, vectors = torch.linalg.eigh(cov)
    # D = alpha c/(alpha^2 c + sigma^2) x along an eigenvector, then x' = (r/s) x + (b - a r/s) D
    wanted = r / s + (b - a * r / s) * a * values / (a**2 * values + s**2)
    wanted, order = wanted.abs().sort(descending=True)
    found = singular_directions(
        Gaussian(torch.zeros(6), cov).denoiser(PROCESS), plan, torch.randn(2, 6), 3, tolerance=1e-10
    )
    assert torch.allclose(found.values, wanted[:3].expand(2, 3), rtol=1e-9)
    overlaps = (found.vectors[0] @ vectors[:, order[:3]]).abs()
    assert torch.allclose(overlaps, torch.eye(3), atol=1e-6)
    assert torch.allclose(found.images.norm(dim=2), found.values, rtol=1e-9)


@pytest.mark.parametrize("noisy", [False, True])
def test_the_dense_jacobian_of_a_mixture(noisy):
    law = Mixture.isotropic(torch.full((3,), 1 / 3), torch.randn(3, 12), torch.tensor([0.2, 0.4, 0.6]))
    model, x = law.denoiser(PROCESS), torch.randn(3, 12)
    plan = DDPM().plan(PROCESS, TIMES) if noisy else PLAN
    noise = torch.randn(plan.slots, 3, 12) if noisy else None
    found = singular_directions(model, plan, x, 2, noise=noise, tolerance=1e-9)
    for b in range(3):
        jacobian = dense(model, plan, x[b : b + 1], None if noise is None else noise[:, b : b + 1])[0]
        v, s = found.vectors[b], found.values[b]
        assert torch.allclose(s, torch.linalg.svdvals(jacobian)[:2], rtol=1e-8)
        # where values lie close their directions are free to turn: that they are some is the law
        assert torch.allclose(v @ jacobian.T @ jacobian, s[:, None] ** 2 * v, atol=1e-8)
        assert torch.allclose(v @ v.T, torch.eye(2), atol=1e-12)
        assert torch.allclose(found.images[b], found.vectors[b] @ jacobian.T, atol=1e-10)
    assert bool((found.error <= 1e-9).all())


def test_equal_values_are_all_found():
    """White data: J is a multiple of the identity, on which a single vector's powers end at once."""
    found = singular_directions(Gaussian(torch.zeros(5), 1.0).denoiser(PROCESS), PLAN, torch.randn(2, 5), 4)
    assert torch.allclose(found.values, found.values[:, :1].expand(2, 4), rtol=1e-10)
    gram = found.vectors @ found.vectors.mT
    assert torch.allclose(gram, torch.eye(4).expand(2, 4, 4), atol=1e-10) and found.products == 5


def test_batch_mates_do_not_meet():
    model, x = MIXTURE.denoiser(PROCESS), torch.randn(4, 2)
    together = singular_directions(model, PLAN, x, 1, extra=1, rounds=1)
    alone = singular_directions(model, PLAN, x[:1], 1, extra=1, rounds=1)
    assert torch.allclose(together.values[:1], alone.values, rtol=1e-12)
    assert torch.allclose(together.sample, linearised(model, PLAN, x).value)


def test_a_jacobian_and_a_transpose_that_do_not_agree_are_an_error():
    """A part without grad has a tangent and no gradient; a batch that is mixed has no Jacobian for each sample."""

    def unseen(x, t):
        with torch.no_grad():
            scale = 1 + x.square().mean(1, keepdim=True)
        return torch.tanh(x) * scale

    for network, by in (
        (unseen, ForwardMode()),
        (lambda x, t: torch.tanh(x + 0.2 * x.mean(0)), ForwardMode()),
        (lambda x, t: torch.tanh(x + 0.2 * x.mean(0)), DoubleBackward()),
    ):
        with pytest.raises(RuntimeError, match=r"J V and J\^T J V: got .* for samples \[0, 1"):
            singular_directions(Denoiser(network, PROCESS, DATA), PLAN, torch.randn(3, 4), 2, by=by)
    found = singular_directions(
        Denoiser(unseen, PROCESS, DATA), PLAN, torch.randn(3, 4), 2, by=DoubleBackward()
    )
    assert bool((found.error < 1e-3).all())


def test_refusals():
    model = MIXTURE.denoiser(PROCESS)
    with pytest.raises(ValueError, match="k: got 3, expected at most 2"):
        singular_directions(model, PLAN, torch.randn(2, 2), 3)
    with pytest.raises(ValueError, match="got 1 sample ids, expected 2"):
        singular_directions(model, PLAN, torch.randn(2, 2), 1, start=Addressed(0, samples=[5]))
    with pytest.raises(ValueError, match="x: got 0 samples, expected at least one"):
        singular_directions(model, PLAN, torch.randn(0, 2), 1)


def test_a_sample_ends_where_it_ends_alone():
    """One that is done keeps what it has, however many rounds its batch mates take."""
    law = Mixture.isotropic(torch.full((3,), 1 / 3), torch.randn(3, 12), torch.tensor([0.2, 0.4, 0.6]))
    model, x = law.denoiser(PROCESS), torch.randn(6, 12)
    given = {"k": 2, "extra": 1, "tolerance": 3e-2}
    whole = singular_directions(model, PLAN, x, **given)
    alone = [
        singular_directions(model, PLAN, x[b : b + 1], start=Addressed(0, [b], stream=2), **given)
        for b in range(6)
    ]
    assert len({each.products for each in alone}) > 1  # they take different numbers of rounds
    for b, one in enumerate(alone):
        assert torch.allclose(whole.values[b], one.values[0], rtol=1e-9)
        assert torch.allclose(whole.error[b], one.error[0], rtol=1e-5)
