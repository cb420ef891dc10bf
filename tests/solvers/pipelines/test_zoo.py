"""The tiny pipelines that other tests lean upon are finite, moderate, and heed all they are told."""

import pytest
import torch
from pipelines.case import PipelineCase, asking, built, leaves, reference, single, start
from pipelines.image import CASES

pytestmark = pytest.mark.slow  # test_parity leans upon the same, in every run

PLAIN = ("sd15", "sdxl", "sd3", "flux", "lumina2", "flux2", "kandinsky22", "sd15_text")
FORGETFUL = (
    1000  # Stable Cascade's start has alpha = 0.01: the x0 of a random network is a hundred times larger
)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_input_reaches_the_latents(case: PipelineCase):
    pipe = built(case)
    call, latents = asking(case, pipe), start(pipe, case).requires_grad_()
    found = reference(pipe, case, latents, grad=True, **{name: call[name] for name in case.cond})
    assert found.flatten(1).shape == latents.flatten(1).shape and found.dtype == torch.float32
    assert found.isfinite().all() and found.abs().max() < (FORGETFUL if "cascade" in case.name else 50)
    asked = [latents, *leaves(case, call)]
    for gradient in torch.autograd.grad(found.square().mean().sqrt(), asked):
        assert 1e-4 < gradient.norm() < 1e4
        assert (gradient.flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize("case", [case for case in CASES if case.name in PLAIN], ids=str)
def test_the_reference_is_what_the_pipeline_hands_out(case: PipelineCase):
    pipe, latents = built(case), start(built(case), case)
    with single():
        shown = pipe(**case.call(pipe), latents=latents, num_inference_steps=case.steps, output_type="latent")
    assert torch.equal(reference(pipe, case, latents, grad=True), shown.images)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_other_schedulers_run_and_differ(case: PipelineCase):
    pipe, latents = built(case), start(built(case), case)
    own, first = pipe.scheduler, reference(built(case), case, latents)
    assert len(case.schedulers) >= 3
    try:
        for make in case.schedulers:
            pipe.scheduler = make(pipe)
            found = reference(pipe, case, latents)
            assert found.isfinite().all() and found.abs().max() < 1000
            assert (found - first).norm() > 1e-3 * first.norm()
            pipe.scheduler = own
    finally:
        pipe.scheduler = own
    assert torch.equal(reference(pipe, case, latents), first)
