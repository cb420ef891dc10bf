"""Guides and particles on a tiny pipeline, by a loss on its pictures. Random networks: what is asked is the low-pass of
another sample's picture, and brightness.
"""

import warnings

import pytest
import torch
from pipelines.pictures import tiny

from pullback.adjoint import sample
from pullback.guidance import (
    DPS,
    MPGD,
    Brightness,
    Decoded,
    Difference,
    Downsample,
    FreeDoM,
    Lookahead,
    Measurement,
    PiGDM,
    smc,
    starting_particles,
    steer,
)
from pullback.solvers import DDIM, Addressed

SEEDS = 8
GUIDES = {
    "DPS": DPS,
    "MPGD": lambda measured: MPGD(measured.nats),
    "FreeDoM": FreeDoM,
    "Lookahead": lambda measured: Lookahead(measured.nats, 2),
}
RUNS = [("sd15", "DDIM", name) for name in GUIDES] + [
    ("sd3", None, "MPGD"),
    ("sdxl", "EulerDiscrete", "Lookahead"),
]


def measured_of(found, at_once=None):
    """The low-pass of another sample's picture."""
    other = sample(found.model, found.plan, found.draw(torch.Generator().manual_seed(9)), gradient=None)[:1]
    seen = Decoded(found.decode, Downsample(4), at_once)
    return Measurement(seen, seen.A(other.expand(2, *other.shape[1:]))[:1], 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("family, scheduler, name", RUNS, ids=["-".join(map(str, run)) for run in RUNS])
def test_a_guide_lowers_the_residual_of_the_picture(family, scheduler, name):
    """Below the unguided samples' of the same noises: the mean of the log ratio and its 95 % interval."""
    found = tiny(family, 8, scheduler)
    measured = measured_of(found)
    x = found.draw(torch.Generator().manual_seed(5), SEEDS)
    cond = {key: value.repeat_interleave(SEEDS // len(value), 0) for key, value in found.cond.items()}
    free = measured(sample(found.model, found.plan, x, cond=cond, gradient=None))
    guided = measured(steer(found.model, found.plan, x, GUIDES[name](measured), cond=cond).sample)
    ratio = (guided / free).log()
    assert (guided < free).all()
    assert ratio.mean() + 2.36 * ratio.std() / SEEDS**0.5 < -0.5


def test_so_many_pictures_at_once_steer_alike():
    found = tiny("sd15", 4)
    x = found.draw(torch.Generator().manual_seed(5), 4)
    whole, parts = (
        steer(found.model, found.plan, x, MPGD(measured_of(found, at_once).nats)).sample
        for at_once in (None, 2)
    )
    assert torch.allclose(whole, parts, rtol=1e-9, atol=1e-9)


def test_a_guide_that_needs_a_linear_operator_refuses_the_picture():
    found = tiny("sd15", 4)
    with pytest.raises(ValueError, match="got Decoded without `A_adjoint`"):
        steer(found.model, found.plan, found.draw(), PiGDM(measured_of(found)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_particles_are_weighed_by_their_pictures(seed):
    """Brighter in the mean than as many independent samples, which cost as much; of the right evidence."""
    found, count, beta, bright = tiny("sd15", 6), 16, 0.03, Brightness()
    plan = DDIM(1.0).plan(found.process, torch.tensor(found.plan.times))

    def reward(x, context):
        return bright(found.decode(x))

    noise, like = Addressed(seed), torch.zeros(2, 4, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few particles
        cloud, again = (
            smc(found.model, plan, starting_particles(noise, like, count), reward, noise, beta=beta,
                potential=Difference(), cond=cond)
            for cond in (None, found.cond)
        )  # fmt: skip
    assert torch.equal(cloud.x, again.x)  # prompts are the samples', one for all of its particles
    x = starting_particles(Addressed(100 + seed), like, 4 * count)
    free = sample(found.model, plan, x.flatten(0, 1), noise=Addressed(200 + seed), gradient=None)
    rewards = bright(found.decode(free)).unflatten(0, (2, -1))
    weighed = cloud.mean(bright(found.decode(cloud.x.flatten(0, 1))).unflatten(0, (2, -1)))
    evidence = (rewards / beta).logsumexp(1) - torch.tensor(4.0 * count).log()
    assert (weighed - rewards[:, :count].mean(1)).mean() > rewards.std(1).mean() / 2
    assert ((cloud.log_z - evidence).abs() < 1).all()
