"""The tiny pipelines of video, audio and cascades run, are conditioned and can be differentiated by their own loops."""

from unittest import mock

import pytest
import torch
from pipelines import audio, cascades, video, video_unet
from pipelines.case import PipelineCase, asking, built, leaves, reference, start

pytestmark = pytest.mark.slow  # test_parity leans upon the same, in every run

CASES = (*video.CASES, *video_unet.CASES, *audio.CASES, *cascades.CASES)
each = pytest.mark.parametrize("case", CASES, ids=str)


@each
def test_gradients_reach_latents_and_conditions(case: PipelineCase):
    pipe = built(case)
    call, latents = asking(case, pipe), start(pipe, case).requires_grad_()
    final = reference(pipe, case, latents, grad=True, **call)
    assert final.dtype == torch.float32 and final.isfinite().all() and final.abs().max() < 50
    assert torch.equal(final, reference(pipe, case, latents.detach()))
    weights = torch.randn(final.shape, generator=torch.Generator().manual_seed(2), dtype=final.dtype)
    for grad in torch.autograd.grad((weights * final).sum(), [latents, *leaves(case, call)]):
        size = grad.flatten(1).norm(dim=1)
        assert (size > 0.05).all() and (size < 1e4).all(), size  # of each sample


@pytest.mark.slow
@each
def test_other_schedulers_end_elsewhere(case: PipelineCase):
    pipe = built(case)
    latents = start(pipe, case)
    finals = [reference(pipe, case, latents)]
    for other in case.schedulers:
        with mock.patch.object(pipe, "scheduler", other(pipe)):
            finals.append(reference(pipe, case, latents))
    for k, final in enumerate(finals):
        assert final.isfinite().all() and final.abs().max() < 100
        assert all((final - before).abs().max() > 1e-4 for before in finals[:k])
