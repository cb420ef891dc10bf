"""Encoders give back the image they were given, as exactly as each promises."""

import pytest
import torch
from identities import ENDS, crowd, ode, one, pair, sde, seen_by

from pullback.guidance import (
    FixedPointEncoder,
    FlowEncoder,
    LatentBlend,
    ReversibleEncoder,
    StochasticEncoder,
    morph,
)
from pullback.solvers import DDIM, EDICT, VP, Encoding, ReversibleHeun, Rising, SASolver, UniformLambda


def ends(plan, encoder, law=None):
    """The morphs of weight 0 and 1, beside the subjects."""
    model, subjects = (law or crowd()).denoiser(VP()), pair()
    for weight, image in ((0.0, subjects.first), (1.0, subjects.second)):
        found = morph(
            model, plan, subjects, [seen_by()], LatentBlend(weight), encoder=encoder, progress=False
        )
        yield found.images, image


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize("method", [DDIM(1.0), DDIM(0.5), SASolver(2, 0, tau=0.7)], ids=str)
def test_recovered_noise_gives_the_image_back(encoding, method):
    plan = method.plan(VP(), UniformLambda(8, **ENDS))
    for found, image in ends(plan, StochasticEncoder(encoding=encoding)):
        torch.testing.assert_close(found, image, atol=1e-9, rtol=0)


@pytest.mark.parametrize("method", [ReversibleHeun(), EDICT()], ids=str)
def test_registers_give_the_image_back(method):
    up = method.plan(VP(), Rising(UniformLambda(8, **ENDS)))
    for found, image in ends(up.inverse(), ReversibleEncoder(up)):
        torch.testing.assert_close(found, image, atol=1e-9, rtol=0)


def test_the_fixed_point_gives_the_image_back():
    plan = DDIM().plan(VP(), UniformLambda(20, **ENDS))
    for found, image in ends(plan, FixedPointEncoder(tolerance=1e-10), one()):
        torch.testing.assert_close(found, image, atol=1e-7, rtol=0)


def test_the_flow_is_encoded_to_the_order_of_its_solver():
    errors = [
        max(float((found - image).abs().max()) for found, image in ends(ode(steps), FlowEncoder(), one()))
        for steps in (40, 80)
    ]
    assert errors[1] < errors[0] / 3


def test_the_latent_is_the_exact_flows():
    law, subjects = one(), pair()
    encoder = FlowEncoder(grid=UniformLambda(400, **ENDS))
    latents, nfe = encoder.encode(law.denoiser(VP()), ode(5), subjects.first, None)
    exact = law.flow(subjects.first, VP(), ENDS["end"], ENDS["start"])
    torch.testing.assert_close(latents.start, exact, atol=1e-3, rtol=0)
    assert nfe == 400


def test_what_cannot_be_encoded_is_said():
    model, subjects = crowd().denoiser(VP()), pair()
    up = EDICT().plan(VP(), Rising(UniformLambda(4, **ENDS)))
    back = up.inverse()
    for plan, encoder, said in (
        (
            back,
            FlowEncoder(),
            "FlowEncoder: got .*registers.*expected a plan that starts from a state; take Rev",
        ),
        (ode(), ReversibleEncoder(up), "ReversibleEncoder: got EDICT.*expected plan = up.inverse"),
        (
            ode(),
            FlowEncoder(grid=UniformLambda(4, 0.9, 0.02)),
            "FlowEncoder: got a grid from 0.9.*equal ends",
        ),
        (ode(), StochasticEncoder(), "one draw|draw"),
        (sde(), FixedPointEncoder(), "stochastic plan"),
    ):
        with pytest.raises(ValueError, match=said):
            morph(model, plan, subjects, [seen_by()], LatentBlend(), encoder=encoder, progress=False)
