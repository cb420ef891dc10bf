"""Modes and transforms around the model of a pipeline: inference mode, no_grad, torch.func, forward mode."""

from typing import Any

import pytest
import torch
from pipelines.case import built, single, start
from pipelines.differentiated import NAMED, found_in
from torch import Tensor, func
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from pullback.adjoint import sample
from pullback.solvers.process import as_time

CASES = [NAMED["sd15"], NAMED["flux"]]


class Asked:
    """A pipeline's model at one time, as a function of latents and of texts."""

    def __init__(self, case: Any) -> None:
        self.case, self.found = case, found_in(case, built(case))
        self.x, self.text = start(built(case), case), case.call(built(case))["prompt_embeds"]
        self.t = torch.full((2,), float(as_time(self.found.plan.times)[1]))

    def of(self, x: Tensor, text: Tensor) -> Tensor:
        return self.found.model(x, self.t, {"prompt_embeds": text})


@pytest.fixture(params=CASES, ids=str)
def asked(request: Any) -> Any:
    with single(), sdpa_kernel(SDPBackend.MATH):  # the others have no forward mode and no second derivative
        yield Asked(request.param)


def test_inference_mode_and_no_grad(asked: Asked):
    found, x = asked.found, asked.x
    with torch.inference_mode():
        assert sample(found.model, found.plan, x).is_inference()  # what it computes is kept for the next
    with torch.no_grad():
        expected = sample(found.model, found.plan, x)
        assert not expected.requires_grad
    with torch.inference_mode():
        cond = {name: value.clone() for name, value in found.cond.items()}
        assert torch.equal(sample(found.model, found.plan, x), expected)
        assert torch.equal(sample(found.model, found.plan, x, cond=cond), expected)
        made = found_in(
            NAMED["flux" if x.ndim == 3 else "sd15"], built(NAMED["flux" if x.ndim == 3 else "sd15"])
        )
    assert all(each.is_inference() for each in cond.values())
    for each, given in ((found, cond), (made, None), (found, None)):
        leaf = x.clone().requires_grad_()
        end = sample(each.model, each.plan, leaf, cond=given)
        assert torch.equal(end, expected) and torch.autograd.grad(end.sum(), leaf)[0].norm() > 0


def test_no_grad_with_conditions_that_require_it(asked: Asked):
    text = asked.text.clone().requires_grad_()
    with torch.no_grad():
        found = asked.of(asked.x, text)
    assert not found.requires_grad and torch.equal(found, asked.of(asked.x, asked.text))
    assert asked.of(asked.x, text).requires_grad


@pytest.mark.parametrize("place", [0, 1], ids=["latents", "texts"])
def test_grad_jvp_and_second_derivatives(asked: Asked, place: int):
    given = [asked.x, asked.text]
    along = torch.randn(given[place].shape, generator=torch.Generator().manual_seed(4)).to(given[place])

    def one(moved: Tensor) -> Tensor:
        return asked.of(*(moved if k == place else each for k, each in enumerate(given)))

    def loss(moved: Tensor) -> Tensor:
        return one(moved).square().mean()

    leaf = given[place].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    (curved,) = torch.autograd.grad((gradient * along).sum(), leaf)
    step = 1e-3
    tangent = (one(given[place] + step * along) - one(given[place] - step * along)) / (2 * step)
    assert torch.allclose(func.grad(loss)(given[place]), gradient, rtol=1e-4, atol=1e-6)
    pushed = func.jvp(one, (given[place],), (along,))[1]
    assert (pushed - tangent).norm() < 1e-2 * tangent.norm()
    twice = func.jvp(func.grad(loss), (given[place],), (along,))[1]
    assert (curved - twice).norm() < 1e-3 * twice.norm()
    with forward_ad.dual_level():
        for scale in (1.0, 2.0):  # two tangents at the same memory
            dual = forward_ad.make_dual(given[place], scale * along)
            found = forward_ad.unpack_dual(one(dual)).tangent
            assert (found - scale * pushed).norm() < 1e-5 * scale * pushed.norm()


def test_vmap(asked: Asked):
    xs, texts = torch.stack([asked.x, 2 * asked.x]), torch.stack([asked.text, -asked.text])
    # the opening of the loop draws latents that nobody looks at
    found = func.vmap(asked.of, randomness="same")(xs, texts)
    for k in range(2):
        assert (found[k] - asked.of(xs[k], texts[k])).abs().max() < 1e-4 * found.abs().max()
    gradients = func.vmap(func.grad(lambda x: asked.of(x, asked.text).square().mean()))(xs)
    alone = func.grad(lambda x: asked.of(x, asked.text).square().mean())(xs[1])
    assert (gradients[1] - alone).norm() < 1e-4 * alone.norm()
