"""dlib's network in PyTorch against dlib."""

import importlib.util
import sys

import pytest
import torch

from pullback.guidance import Chip, EightBits, dlib_black_box, dlib_face
from pullback.guidance.recognition import dlib_weights as weights_file
from pullback.guidance.recognition import faces as faces_file
from pullback.zoo import face_images

AS_A_FILE = Chip(levels=EightBits())


@pytest.fixture(scope="module")
def network():
    return dlib_face(chip=AS_A_FILE)


@pytest.fixture(scope="module")
def black_box():
    return dlib_black_box()


def agree(network, black_box, images):
    ours, theirs = network.describe(images), black_box.describe(images)
    assert ours.dtype == theirs.dtype == images.dtype and ours.shape == (len(images), 128)
    assert (ours - theirs).abs().max() < 1e-5
    assert network.distance(ours, theirs).max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_descriptors_are_dlibs_own(dtype, network, black_box):
    agree(network, black_box, face_images()[::34].to(dtype))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_descriptors_of_all_faces_are_dlibs_own(dtype, network, black_box):
    agree(network, black_box, face_images().to(dtype))


@pytest.mark.parametrize("size", [64, 150, 190])
def test_colours_sizes_and_what_lies_out_of_range(size, network, black_box):
    """Three unlike channels: their order is dlib's. Beyond [-1, 1] both see what a file can hold."""
    agree(
        network,
        black_box,
        1.3
        * torch.randn(1, 3, 6, 6)
        .repeat_interleave(size, 2)[:, :, :size]
        .repeat_interleave(size, 3)[..., :size],
    )


def test_the_gradient_is_that_of_finite_differences():
    network, image = dlib_face(), face_images()[:1].double()
    image.requires_grad_()
    target = network.describe(face_images()[1:2].double()).detach()
    value = network.distance(network.describe(image), target).sum()
    (grad,) = torch.autograd.grad(value, image)
    direction = torch.randn_like(image)

    def along(step):
        moved = network.describe(image.detach() + step * direction)
        return network.distance(moved, target).sum()

    step = 1e-8  # longer ones cross kinks of relu and of the pooling
    assert torch.isclose((along(step) - along(-step)) / (2 * step), (grad * direction).sum(), rtol=1e-6)


def test_the_gradient_through_a_file_is_handed_straight_through(network):
    """That of the network at the rounded chip, carried back by the enlargement alone."""
    image = face_images()[:1].double().requires_grad_()
    (ours,) = torch.autograd.grad(network.describe(image).square().sum(), image)
    inner = network.network.network
    chip = AS_A_FILE(image).detach().requires_grad_()
    (at_chip,) = torch.autograd.grad(inner(chip).square().sum(), chip)
    enlarge = torch.nn.functional.interpolate(image, (150, 150), mode="bicubic", antialias=True)
    (plain,) = torch.autograd.grad(enlarge, image, at_chip.sum(1, keepdim=True) * 127.5)
    assert torch.allclose(ours, plain, rtol=1e-10)


def test_what_a_file_rounds_away_hardly_moves_a_descriptor(network):
    images = face_images()[:4]
    moved = network.distance(network.describe(images), dlib_face().describe(images))
    assert 0 < moved.min() and moved.max() < 0.02


def test_batch_mates_do_not_matter_and_nothing_is_drawn_or_trained(network):
    images, before = face_images()[:3].double(), torch.get_rng_state()
    made = dlib_face()
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(made.network, torch.nn.Module) and not list(made.network.parameters())
    assert made.threshold == 0.6 and made.differentiable
    together, alone = network.describe(images), network.describe(images[1:2])
    assert torch.allclose(together[1:2], alone, rtol=1e-12, atol=1e-13)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(ImportError, match=r'dlib, .* pip install "pullback\[faces\]"'):
        dlib_black_box()
    monkeypatch.setattr(weights_file, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'face_recognition_models, .* pip install "pullback\[faces\]"'):
        dlib_face()


def test_a_damaged_file_is_refused(tmp_path, monkeypatch):
    whole = weights_file.dlib_file().read_bytes()
    assert importlib.util.find_spec("face_recognition_models") and len(whole) == 22466066
    for name, data, words in (
        ("short", whole[:1_000_000], "sizes"),
        ("empty", b"", "con_4"),
        ("other", whole.replace(b"affine_", b"affine3"), "affine_"),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        monkeypatch.setattr(faces_file, "dlib_file", lambda path=path: path)
        with pytest.raises(ValueError, match=words):
            dlib_face()
