"""Reversible Heun with noise: Kidger's own recursion, an exact inverse with replayed increments, one call a step."""

import pytest
import torch
from problems import MIXTURE, PROCESS, warped

from pullback.adjoint import Direct, Reversible, sample
from pullback.solvers import (
    Addressed,
    Denoiser,
    GivenNoise,
    RectifiedFlow,
    ReversibleHeun,
    Rex,
    Tau,
    UniformLambda,
    UniformT,
    V,
    decode,
    encode,
    run,
)


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_it_is_kidgers_recursion(tau):
    """The pair of states as published, in Y = e^{tau^2 lambda} x/sigma and s = e^{(1 + tau^2) lambda}: dY = D ds
    + dM, M a Brownian motion of clock e^{2 tau^2 lambda}.
    """
    grid, x, draws = PROCESS.time(warped(9)), torch.randn(4, 2), torch.randn(9, 4, 2)
    plan, model = ReversibleHeun(tau=tau).plan(PROCESS, grid), MIXTURE.denoiser(PROCESS)
    lam = PROCESS.lam(grid)
    unit = (tau**2 * lam).exp() / PROCESS.sigma(grid)
    s, clock = ((1 + tau**2) * lam).exp(), (2 * tau**2 * lam).exp()

    def drift(i, y):
        return model(y / unit[i], grid[i].expand(4))

    y = hat = unit[0] * x
    mu = drift(0, hat)
    for i in range(9):
        h, w = s[i + 1] - s[i], (clock[i + 1] - clock[i]).sqrt() * draws[i]
        hat = 2 * y - hat + mu * h + w
        late = drift(i + 1, hat)
        y, mu = y + (mu + late) / 2 * h + w, late
    assert (plan.nfe, plan.slots) == (10, 9)
    assert torch.allclose(run(model, plan, x, noise=GivenNoise(draws)), y / unit[-1], atol=1e-12)


@pytest.mark.parametrize("tau", [1.0, Tau(0.8, 0.3, 2.0)], ids=str)
@pytest.mark.parametrize("n", [3, 20, 100])
def test_the_increments_replayed_give_the_start_back(n, tau):
    """To round-off, which has no damping to undo: at a hundred steps a hundredth of Rex's, at half its calls."""
    grid, x, noise = UniformLambda(n, start=0.9, end=0.02), torch.randn(8, 2), Addressed(5)
    model, errors = MIXTURE.denoiser(PROCESS), []
    for method, calls in ((ReversibleHeun(tau=tau), n + 1), (Rex(sde=True), 2 * n)):
        plan = method.plan(PROCESS, grid)
        there = encode(model, plan, x, noise=noise)
        errors.append(float((decode(model, plan, there, dtype=torch.float64, noise=noise) - x).abs().max()))
        assert plan.nfe == calls
    assert errors[0] < 1e-10 and (n < 100 or errors[0] < 0.1 * errors[1])


def test_gradients_of_the_reconstruction_are_the_exact_ones():
    """A hundred steps in two float64 states: at the start and at every draw."""
    plan, model = (
        ReversibleHeun(tau=1.0).plan(PROCESS, UniformLambda(100, end=0.02)),
        MIXTURE.denoiser(PROCESS),
    )
    x, noise = torch.randn(4, 2, requires_grad=True), torch.randn(100, 4, 2, requires_grad=True)
    grads = []
    for strategy in (Reversible(), Direct()):
        out = sample(model, plan, x, noise=noise, gradient=strategy)
        grads.append(torch.autograd.grad(out.square().sum(), [x, noise]))
    for a, b in zip(*grads, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9 * float(b.abs().max()))


def test_ends_keep_their_start_and_draw_nothing():
    """From alpha = 0 to sigma = 0: four of the six steps have noise, and all are undone."""
    process, x, noise = RectifiedFlow(), torch.randn(3, 2), Addressed(2)
    plan = ReversibleHeun(tau=1.0).plan(process, UniformT(6))
    model = Denoiser(lambda x, t: torch.tanh(x) * 0.5, process, V)
    there = encode(model, plan, x, noise=noise)
    assert plan.slots == 4
    assert (decode(model, plan, there, dtype=torch.float64, noise=noise) - x).abs().max() < 1e-11
