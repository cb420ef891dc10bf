"""The gradient of an edit by recovered noise: through the recovery too, which no one holds constant."""

import pytest
import torch
from torch import nn

from pullback.adjoint import Checkpoint, Direct, Truncated
from pullback.adjoint.choosing import Auto
from pullback.guidance import edit
from pullback.solvers import DDPM, NOISE, VP, Addressed, Denoiser, SDEDPMSolverPP, UniformLambda

GRID = UniformLambda(4, start=0.9, end=0.1)
EDITS = [edit.cycle_diffusion, edit.edit_friendly]
STRATEGIES = [Auto(), Checkpoint(offload=True), Direct()]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.calls = nn.Linear(3, 3, dtype=torch.float64), 0

    def forward(self, x, t, c):
        self.calls += 1
        return torch.tanh(self.body(x) + c) * t[:, None]


def given():
    """A model, a picture, and two conditions."""
    torch.manual_seed(0)
    values = [torch.randn(2, 3, dtype=torch.float64), *torch.randn(2, 3, dtype=torch.float64)]
    return Denoiser(Net(), VP(), NOISE), *(value.requires_grad_() for value in values)


@pytest.mark.parametrize("gradient", STRATEGIES, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("call", EDITS, ids=lambda each: each.__name__)
def test_an_edit_to_its_own_source_is_the_identity_and_so_is_its_gradient(call, gradient):
    """The result is the image whatever condition and weights are: d/d image = 1, d/d the others = 0."""
    model, image, cond, _ = given()
    plan, weight = DDPM().plan(VP(), GRID), torch.randn(2, 3, dtype=torch.float64)
    out = call(model, plan, image, source=cond, target=cond, gradient=gradient).sample
    at_image, *others = torch.autograd.grad((out * weight).sum(), [image, cond, *model.parameters()])
    assert torch.allclose(at_image, weight, rtol=1e-9)
    assert max(float(other.abs().max()) for other in others) < 1e-10


@pytest.mark.parametrize("gradient", STRATEGIES, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("method", [DDPM(), pytest.param(SDEDPMSolverPP(2), marks=pytest.mark.slow)], ids=str)
def test_the_gradient_is_that_of_finite_differences(method, gradient):
    model, *inputs = given()
    plan, weights = method.plan(VP(), GRID), list(model.parameters())

    def edited(image, source, target, *_, gradient=gradient):
        return edit.cycle_diffusion(model, plan, image, source=source, target=target, scale=1.5,
                                    null=torch.zeros(3, dtype=torch.float64), gradient=gradient).sample  # fmt: skip

    leaves = [*inputs, *weights]
    mix = torch.randn(2, 3, dtype=torch.float64)
    found = torch.autograd.grad((edited(*leaves) * mix).sum(), leaves)
    h, ways = 1e-6, [torch.randn_like(leaf) for leaf in leaves]
    for leaf, way, grad in zip(leaves, ways, found, strict=True):
        values = []
        with torch.no_grad():
            for sign in (1, -2, 1):
                leaf += sign * h * way
                values.append((edited(*leaves, gradient=None) * mix).sum())
        assert torch.allclose((grad * way).sum(), (values[0] - values[1]) / (2 * h), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("gradient, replays", [(Checkpoint(), 8), (Direct(), 0), (Truncated(1), 5)], ids=str)
def test_the_recovery_costs_what_it_should(gradient, replays):
    model, image, source, target = given()
    net = next(iter(model.networks()))
    plan = DDPM().plan(VP(), GRID)
    out = edit.cycle_diffusion(model, plan, image, source=source, target=target, gradient=gradient).sample
    assert net.calls == 8
    out.sum().backward()
    assert net.calls == 8 + replays and image.grad is not None and source.grad is not None


def test_nothing_is_replayed_for_what_wants_no_gradient():
    model, image, source, target = given()
    net = next(iter(model.networks())).requires_grad_(False)
    plan = DDPM().plan(VP(), GRID)
    found = edit.cycle_diffusion(model, plan, image.detach(), source=source.detach(), target=target)
    found.sample.sum().backward()
    assert net.calls == 12 and not found.latent.requires_grad
    plain = edit.cycle_diffusion(model, plan, image, source=source, target=target, gradient=None)
    assert torch.equal(plain.sample, found.sample.detach()) and not plain.sample.requires_grad


def test_what_a_bare_function_captures_has_its_gradient():
    """Nobody declares it: the recovery is differentiated all the same."""
    scale, image = (
        torch.tensor(0.3, dtype=torch.float64, requires_grad=True),
        torch.ones(2, 3, dtype=torch.float64),
    )
    model, plan = Denoiser(lambda x, t: torch.tanh(scale * x), VP(), NOISE), DDPM().plan(VP(), GRID)
    found = edit.cycle_diffusion(model, plan, image, source=None, target=None, noise=Addressed(3))
    (grad,) = torch.autograd.grad(found.sample.sum(), scale)
    assert abs(float(grad)) < 1e-10  # the edit is the identity, whatever the network is
