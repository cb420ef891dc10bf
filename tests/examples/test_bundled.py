"""The bundled models load by name, run, and are what their card says."""

import pytest
import torch
from train import held_out

from pullback.adjoint import Checkpoint, sample
from pullback.solvers import DPMSolverPP, FlowEuler, FlowMidpoint, UniformLambda, UniformT
from pullback.zoo import (
    MNIST_HELD_OUT,
    MNIST_TRAIN,
    NAMES,
    denoiser,
    digit_images,
    face_images,
    load,
    mnist_images,
)  # fmt: skip
from pullback.zoo.models import WEIGHTS


@pytest.mark.parametrize("name", ["faces", "digits", "mnist"])
def test_denoisers_sample_and_differentiate(name):
    side = {"faces": 25, "digits": 8, "mnist": 28}[name]
    model = denoiser(name)
    x = torch.randn(2, 1, side, side, dtype=torch.float32, requires_grad=True)
    cond = torch.eye(11, dtype=torch.float32)[[3, 7]].requires_grad_() if name != "faces" else None
    plan = DPMSolverPP(2).plan(model.process, UniformLambda(8, start=1.0, end=0.03))
    out = sample(model, plan, x, cond=cond, gradient=Checkpoint())
    grads = torch.autograd.grad(out.square().sum(), [x] + ([cond] if cond is not None else []))
    assert out.shape == x.shape and float(out.detach().abs().max()) < 3
    assert all(bool(g.isfinite().all()) and float(g.abs().sum()) > 0 for g in grads)


@pytest.mark.parametrize("name", ["faces_flow", "digits_flow", "mnist_flow"])
def test_flows_sample_and_differentiate(name):
    side = {"faces_flow": 25, "digits_flow": 8, "mnist_flow": 28}[name]
    model = denoiser(name)
    x = torch.randn(2, 1, side, side, dtype=torch.float32, requires_grad=True)
    cond = torch.eye(11, dtype=torch.float32)[[3, 7]].requires_grad_() if name != "faces_flow" else None
    out = sample(model, FlowEuler().plan(model.process, UniformT(8)), x, cond=cond, gradient=Checkpoint())
    grads = torch.autograd.grad(out.square().sum(), [x] + ([cond] if cond is not None else []))
    assert out.shape == x.shape and float(out.detach().abs().max()) < 3
    assert all(bool(g.isfinite().all()) and float(g.abs().sum()) > 0 for g in grads)


def test_the_digits_flow_draws_the_digit_asked_for():
    model, labels = denoiser("digits_flow"), torch.arange(10).repeat(10)
    start = torch.randn(100, 1, 8, 8, dtype=torch.float32, generator=torch.Generator().manual_seed(0))
    drawn = sample(model, FlowMidpoint().plan(model.process, UniformT(20)), start, cond=labels, gradient=None)
    read = [float((load(f"classifier{k}")(drawn).argmax(1) == labels).double().mean()) for k in (0, 1)]
    assert min(read) > 0.9, read


def test_classifiers_read_held_out_digits():
    images, labels = digit_images()
    _, test = held_out(len(images), 0.2)
    for k in (0, 1):
        assert float((load(f"classifier{k}")(images[test]).argmax(1) == labels[test]).double().mean()) > 0.95


@pytest.mark.parametrize("name, method, grid", [
    ("mnist", DPMSolverPP(2), UniformT(12)),
    ("mnist_flow", FlowMidpoint(), UniformT(6)),
])  # fmt: skip
def test_the_28x28_models_draw_the_digit_asked_for(name, method, grid):
    model, labels = denoiser(name), torch.arange(10).repeat(4)
    start = torch.randn(40, 1, 28, 28, dtype=torch.float32, generator=torch.Generator().manual_seed(0))
    drawn = sample(model, method.plan(model.process, grid), start, cond=labels, gradient=None)
    read = [float((load(f"mnist_classifier{k}")(drawn).argmax(1) == labels).double().mean()) for k in (0, 1)]
    assert min(read) > 0.9, read


def test_mnist_keeps_its_split_and_its_classifiers_read_what_they_never_saw():
    images, labels = mnist_images()
    assert images.shape == (10_000, 1, 28, 28) and images.min() == -1 and images.max() == 1
    known = {image.numpy().tobytes() for image in images[MNIST_TRAIN]}
    assert not any(image.numpy().tobytes() in known for image in images[MNIST_HELD_OUT])
    x, y = images[MNIST_HELD_OUT][:500], labels[MNIST_HELD_OUT][:500]
    for k in (0, 1):
        assert float((load(f"mnist_classifier{k}")(x).argmax(1) == y).double().mean()) > 0.97


def test_embedders_tell_the_faces_apart():
    faces = face_images()
    for k in range(3):
        table = load(f"embedder{k}")(faces) @ load(f"embedder{k}")(faces.flip(-1)).T
        assert float((table.argmax(1) == torch.arange(100)).double().mean()) > 0.9


def test_names_and_files():
    with pytest.raises(ValueError, match="expected one of faces"):
        load("cats")
    with pytest.raises(ValueError, match="bundled denoiser: got 'embedder0', expected one of faces"):
        denoiser("embedder0")
    assert {p.name for p in WEIGHTS.iterdir()} >= {f"{n}.safetensors" for n in NAMES}
    assert not list(WEIGHTS.glob("*.p*t*")) and all(p.stat().st_size < 6e6 for p in WEIGHTS.iterdir())
