"""Gradients through weighted particles: of the evidence unbiased for every K, resampling included."""

import functools

import pytest
import torch
from problems import PROCESS

from pullback.adjoint import Checkpoint, Direct, Gradient
from pullback.guidance import TMPD, DataGuidance, Matrix, Measurement, Raw, Through, smc, starting_particles
from pullback.solvers import DDPM, Addressed, Combine, Mixture, UniformLambda

pytestmark = pytest.mark.filterwarnings("ignore:smc. got an effective sample size")

PLAN = DDPM().plan(PROCESS, UniformLambda(6, start=0.9, end=0.05))
TWO = Mixture.isotropic(
    torch.tensor([0.7, 0.3], dtype=torch.float64), torch.tensor([[-1.5], [1.2]], dtype=torch.float64), 0.4
)
Y, STD = 0.8, 0.5
EYE = torch.ones(1, 1, dtype=torch.float64)


def likelihood(x, y):
    """exp(-(y - x)^2 / (2 s^2)), one y a particle."""
    return -0.5 * ((y - x[:, 0]) / STD).square()


def evidence(y, count, *, gradient: Gradient = Direct(), proposal=None, **options):
    """exp(log_z), one for each y (B,)."""
    noise = Addressed(11, samples=range(len(y)))
    x = starting_particles(noise, torch.zeros(len(y), 1, dtype=torch.float64), count)
    found = smc(
        TWO.denoiser(PROCESS), PLAN, x, likelihood, noise, context=y, proposal=proposal, through=Through.FULL,
        gradient=gradient, **options,
    )  # fmt: skip
    return found


@functools.cache
def slope():
    """dZ/dy, Z = E[exp(r)] under the plan's own law from N(0, 1), by quadrature."""
    points = torch.linspace(-7, 7, 1401)
    law = torch.exp(-points.square() / 2)
    combines = [op for op in PLAN.instructions if isinstance(op, Combine)]
    for op, t in zip(combines, torch.tensor(PLAN.times)[:-1], strict=True):
        ((a, _), (c, _)), ((std, _),) = op.terms, op.noise
        assert isinstance(a, float) and isinstance(c, float) and isinstance(std, float)
        mean = a * points + c * TWO.denoise(points[:, None], PROCESS.alpha(t), PROCESS.sigma(t))[:, 0]
        law = torch.exp(-((points[:, None] - mean) / std).square() / 2) @ law
        law /= law.sum()
    return float((law * likelihood(points[:, None], Y).exp() * (points - Y) / STD**2).sum())


@pytest.mark.parametrize("guided", [False, True], ids=["prior", "TMPD"])
@pytest.mark.parametrize("threshold", [0.0, 1.0], ids=["never resampled", "every step"])
@pytest.mark.parametrize("count, batch", [(2, 800), (16, 150)])
def test_the_gradient_of_the_evidence_is_unbiased(count, batch, threshold, guided):
    y = torch.full((batch,), Y, dtype=torch.float64, requires_grad=True)
    proposal = TMPD(Measurement(Matrix(EYE), y[:, None], STD)) if guided else None
    z = evidence(y, count, proposal=proposal, threshold=threshold).log_z.exp()
    (grad,) = torch.autograd.grad(z.sum(), y)
    assert abs(float(grad.mean()) - slope()) < 4 * float(grad.std()) / batch**0.5


def test_a_proposals_strength_moves_the_evidence_nowhere():
    """It changes the variance of Z, never its mean: the gradient is zero in the mean, and not in any one run."""
    strength = torch.ones(400, dtype=torch.float64).requires_grad_()
    y = torch.full((400,), Y, dtype=torch.float64)
    pulled = DataGuidance(
        Measurement(Matrix(EYE), y[:, None], STD).nats, Raw(strength.repeat_interleave(8, 0))
    )
    z = evidence(y, 8, proposal=pulled, threshold=0.9).log_z.exp()
    (grad,) = torch.autograd.grad(z.sum(), strength)
    assert float(grad.std()) > 1e-3 and abs(float(grad.mean())) < 4 * float(grad.std()) / 20


def test_values_are_those_of_a_run_without_a_gradient_and_both_strategies_agree():
    found = []
    for gradient in (Direct(), Checkpoint()):
        y = torch.tensor([0.3, Y, -0.5], dtype=torch.float64, requires_grad=True)
        cloud = evidence(
            y, 6, gradient=gradient, proposal=TMPD(Measurement(Matrix(EYE), y[:, None], STD)), threshold=0.9
        )
        found.append((cloud, torch.autograd.grad(cloud.log_z.sum() + cloud.mean().square().sum(), y)[0]))
    noise = Addressed(11, samples=range(3))
    x = starting_particles(noise, torch.zeros(3, 1, dtype=torch.float64), 6)
    y = torch.tensor([0.3, Y, -0.5], dtype=torch.float64)
    plain = smc(
        TWO.denoiser(PROCESS), PLAN, x, likelihood, noise, context=y, threshold=0.9,
        proposal=TMPD(Measurement(Matrix(EYE), y[:, None], STD)),
    )  # fmt: skip
    assert bool(plain.resampled.any()) and not plain.log_z.requires_grad
    for cloud, _ in found:
        assert torch.allclose(cloud.log_z, plain.log_z, atol=1e-12) and torch.allclose(
            cloud.x, plain.x, atol=1e-12
        )
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-11, atol=1e-13)


def test_without_resampling_it_is_the_derivative_of_the_run():
    """Finite differences at fixed noise; with resampling there are none: who goes on jumps."""
    y = torch.full((2,), Y, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(evidence(y, 4, threshold=0.0).log_z.sum(), y)
    ends = [evidence((y + s * 1e-6).detach(), 4, threshold=0.0).log_z.detach() for s in (1, -1)]
    assert torch.allclose(grad, (ends[0] - ends[1]) / 2e-6, rtol=1e-6)


def test_half_a_gradient_is_refused():
    with pytest.raises(ValueError, match="expected NOTHING or FULL"):
        noise, x = Addressed(0, samples=range(2)), torch.zeros(2, 3, 1, dtype=torch.float64)
        smc(
            TWO.denoiser(PROCESS), PLAN, x, likelihood, noise, context=torch.zeros(2), through=Through.STOPPED
        )
