"""The models of the procedural faces are what their card says, on people that they have not seen."""

import pytest
import torch
from procedural import TEST, passport
from shared import procedural_card
from shared.procedural_models import WEIGHTS, Autoencoder, autoencoder, card, recogniser, thresholds

from pullback.adjoint import Checkpoint, sample
from pullback.solvers import DPMSolverPP, UniformLambda


def test_two_photographs_are_nearer_than_two_people():
    """Judged by each recogniser on people that nobody has seen, at its threshold from others."""
    pictures = procedural_card.album(range(9000, 9060), 3)
    for k, limits in enumerate(thresholds()):
        table = procedural_card.distances(recogniser(k), pictures)
        refused = (procedural_card.mated(table) >= limits[0.01]).double().mean()
        accepted = (procedural_card.impostors(table) < limits[0.01]).double().mean()
        assert refused < 2.5 * card()[f"recogniser{k}"]["at_0.01"]["fnmr"] + 0.03
        assert accepted < 0.03


def test_the_autoencoder_samples_and_differentiates_in_noise_and_code():
    model, x = autoencoder(), passport(TEST[:2])
    assert isinstance(model.network, Autoencoder)
    code = model.network.encode(x).requires_grad_()
    plan = DPMSolverPP(2).plan(model.process, UniformLambda(6, start=1.0, end=0.03))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    out = sample(model, plan, noise.requires_grad_(), cond=code, gradient=Checkpoint())
    slopes = torch.autograd.grad(out.square().sum(), [noise, code])
    assert all(bool(s.isfinite().all()) and float(s.abs().sum()) > 0 for s in slopes)
    assert float((out - x).square().mean().sqrt()) < 0.3  # the code alone makes the face


def test_the_card_says_what_the_autoencoder_does_on_people_held_out():
    x = procedural_card.album(range(TEST[0], TEST[0] + 100), 1)[:, 0]
    found = card()["autoencoder"]
    assert procedural_card.denoising_loss(autoencoder(), x, coded=True) == pytest.approx(
        found["held_out_loss"], rel=0.1
    )
    assert found["held_out_loss"] < 1.15 * found["train_loss"]  # nothing is memorised


def test_names_and_files():
    with pytest.raises(ValueError, match="expected one of 0, 1, 2"):
        recogniser(3)
    files = list(WEIGHTS.glob("procedural_*.safetensors"))
    assert len(files) == 4 and all(path.stat().st_size < 3e6 for path in files)
