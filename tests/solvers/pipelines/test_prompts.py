"""Prompts as text through from_diffusers, and the noise levels that it hands to other methods."""

from unittest import mock

import pytest
import torch
from pipelines.build import other
from pipelines.case import built, reference, single, start
from pipelines.prompted import CASES
from pipelines.stable_diffusion import CASES as STABLE

from pullback.adjoint import sample
from pullback.solvers.pipelines import from_diffusers

NEW = ["a blue dog", "a duck by day"]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_new_prompts_stand_in_the_place_of_the_first(case):
    """The pipeline called with them ends at the same latents; what else it was told, it is still told."""
    pipe, latents = built(case), start(built(case), case)
    with single():
        found = from_diffusers(pipe, case.steps, **case.call(pipe))
        new = found.encode_prompt(prompt=NEW)
        ours = sample(found.model, found.plan, found.start(latents), cond=new)
        again = found.encode_prompt()
    theirs = reference(pipe, case, latents, prompt=NEW)
    assert new.keys() == found.cond.keys() and "prompt_embeds" in new
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-5
    assert all(torch.equal(again[name], found.cond[name]) for name in again)


@pytest.mark.parametrize(
    "kind", ["PNDM", "HeunDiscrete", "DDIM", "DPMSolverMultistep", "KDPM2AncestralDiscrete"]
)
def test_every_noise_level_stands_in_the_grid_once(kind):
    """The plan of a scheduler that calls twice at a level tells the two apart by a hair, which is no step."""
    case = next(case for case in STABLE if case.name == "sd15")
    pipe = built(case)
    with single(), mock.patch.object(pipe, "scheduler", other(kind)(pipe)):
        found = from_diffusers(pipe, 6, **case.call(pipe))
        pipe.scheduler.set_timesteps(6)
        labels = pipe.scheduler.timesteps
    nodes = found.grid.times(found.process)
    assert (nodes.diff() < -1e-4).all()
    assert {round(t, 2) for t in found.plan.times if isinstance(t, float)} == {
        round(float(t), 2) for t in nodes
    }
    told = found.scheduler.label(nodes[:-1], found.process)
    assert {round(float(t), 3) for t in told} <= {round(float(t), 3) for t in labels}


def test_pictures_of_a_16_bit_pipeline():
    """Its state is float32 in a run; its VAE is shown what the pipeline would show it."""
    case = next(case for case in STABLE if case.name == "sd15")
    with single(), torch.no_grad():
        pipe = case.build().to(torch.bfloat16)
        found = from_diffusers(pipe, 2, **case.call(pipe))
        x = sample(found.model, found.plan, found.draw())
        assert x.dtype == torch.float32
        assert torch.equal(found.decode(x), found.decode(x.bfloat16()))


def test_no_words_are_a_prompt_too():
    case = next(each for each in CASES if each.name == "sd15_text")
    found = from_diffusers(built(case), 2, prompt="", height=8, width=8, guidance_scale=1.0)
    assert found.cond
    with single():
        found.model(found.draw(), torch.full((1,), 500.0), found.encode_prompt(prompt="a cat"))
