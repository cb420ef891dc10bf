"""Recognisers of one's own: distances, gradients, and what is refused."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from pullback.guidance import (
    COSINE,
    EUCLIDEAN,
    BlackBoxRecogniser,
    Chip,
    EightBits,
    Embedding,
    MorphScores,
    RealLevels,
    Recogniser,
    mmpmr_min_max,
)

IMAGES = torch.randn(5, 1, 3, 3)
NET = nn.Sequential(nn.Flatten(), nn.Linear(9, 4))


def test_distances_are_their_definitions():
    a, b = torch.randn(6, 1, 4), torch.randn(3, 4)
    for i in range(6):
        for j in range(3):
            u, v = a[i, 0], b[j]
            assert torch.isclose(EUCLIDEAN(a, b)[i, j], ((u - v) ** 2).sum().sqrt())
            assert torch.isclose(COSINE(a, b)[i, j], 1 - u @ v / (u.norm() * v.norm()))


def test_the_distance_of_a_thing_to_itself_is_zero_and_has_a_gradient():
    a = torch.randn(7, 128).requires_grad_()
    for distance in (EUCLIDEAN, COSINE):
        found = distance(a, a.detach().clone())
        assert (found == 0).all()
        (grad,) = torch.autograd.grad(found.sum(), a)
        assert (grad == 0).all()


def test_a_small_cosine_distance_keeps_its_digits():
    """The angle theta gives theta^2 / 2; 1 - cos would be zero in float32."""
    a = torch.tensor([1.0, 0.0], dtype=torch.float32)
    assert torch.isclose(COSINE(a, torch.tensor([1.0, 1e-4])), torch.tensor(5e-9), rtol=1e-3)


def test_a_descriptor_of_zeros_has_no_direction():
    """NaN, as of an image that could not be read: a network whose outputs have died matches nobody."""
    zero, other = torch.zeros(1, 3), torch.randn(1, 3)
    assert (
        COSINE(zero, other).isnan().all()
        and COSINE(other, zero).isnan().all()
        and COSINE(zero, zero).isnan().all()
    )
    dead = Embedding(lambda x: 0 * x.flatten(1), threshold=0.9, distance=COSINE)
    scores = MorphScores.compare([dead], IMAGES, IMAGES[:, None, None].expand(5, 2, 2, 1, 3, 3))
    assert not scores.took_place.any() and mmpmr_min_max(scores) == 0
    for scale in (1e-15, 1e15):  # short or long, it is a direction
        a = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
        assert torch.isclose(
            COSINE(scale * a, torch.tensor([[4.0, 3.0]])), torch.tensor(0.04, dtype=torch.float64)
        ).all()


def test_an_embedding_is_the_network_with_its_gradient():
    images = IMAGES.clone().requires_grad_()
    one = Embedding(NET, threshold=0.5, distance=COSINE)
    found = one.describe(images)
    assert isinstance(one, Recogniser) and one.differentiable and torch.equal(found, NET(images))
    ours, plain = (torch.autograd.grad(v.square().sum(), images)[0] for v in (found, NET(images)))
    assert torch.equal(ours, plain)


def test_a_match_is_under_the_threshold_and_a_failure_is_none():
    one = Embedding(NET).with_threshold(0.5)
    assert one.threshold == 0.5 and one.network is NET
    assert one.accepts(torch.tensor([0.4, 0.5, 0.6, torch.nan])).tolist() == [True, False, False, False]


@pytest.mark.parametrize("back", [lambda x: x, lambda x: x.numpy(), lambda x: x.tolist()])
def test_a_black_box_may_answer_with_arrays_and_lists(back):
    box = BlackBoxRecogniser(lambda images: back(images.flatten(1)), threshold=1.0)
    found = box.describe(IMAGES)
    assert not box.differentiable and torch.equal(found, IMAGES.flatten(1))
    assert not box.describe(IMAGES.clone().requires_grad_().detach()).requires_grad
    with torch.no_grad():  # to judge what is being optimised needs no gradient
        assert torch.equal(box.describe(IMAGES.clone().requires_grad_()), found)
        flat = IMAGES.flatten(1).clone().requires_grad_()
        assert torch.equal(BlackBoxRecogniser(lambda images: images.numpy()).describe(flat), found)


def test_a_black_box_says_that_an_image_could_not_be_read():
    def describe(images):
        found = images.flatten(1).numpy().copy()
        found[1] = np.nan
        return found

    box = BlackBoxRecogniser(describe)
    found = box.describe(IMAGES)
    assert box.distance(found, found[:1]).isnan().tolist() == [False, True, False, False, False]


def test_half_precision_is_widened():
    assert Embedding(lambda x: x.flatten(1)).describe(IMAGES.half()).dtype == torch.float32


def test_what_is_wrong_is_refused_in_words():
    wanted = IMAGES.clone().requires_grad_()
    infinite = Embedding(lambda x: torch.where(torch.arange(5)[:, None] == 2, torch.inf, x.flatten(1)))
    unread = Embedding(lambda x: torch.where(torch.arange(5)[:, None] == 3, torch.nan, x.flatten(1)))
    half_read = BlackBoxRecogniser(lambda x: torch.where(x.flatten(1) > 0, torch.nan, x.flatten(1)))
    for error, words, call in (
        (ValueError, "batch axis", lambda: Embedding(NET).describe(torch.tensor(1.0))),
        (ValueError, "floating point", lambda: Embedding(NET).describe(torch.ones(5, 9, dtype=torch.int64))),
        (ValueError, "detach", lambda: BlackBoxRecogniser(NET).describe(wanted)),
        (ValueError, "without a graph", lambda: Embedding(lambda x: x.detach().flatten(1)).describe(wanted)),
        (ValueError, r"\(5, d\)", lambda: Embedding(lambda x: x).describe(IMAGES)),
        (ValueError, r"\(5, d\)", lambda: Embedding(lambda x: x.flatten(1)[:4]).describe(IMAGES)),
        (ValueError, r"\(5, d\)", lambda: BlackBoxRecogniser(lambda x: [1.0] * 5).describe(IMAGES)),
        (ValueError, "eval mode", lambda: Embedding(nn.Sequential(NET, nn.Dropout())).describe(IMAGES)),
        (FloatingPointError, r"images \[2\]", lambda: infinite.describe(IMAGES)),
        (FloatingPointError, r"images \[3\]", lambda: unread.describe(IMAGES)),
        (FloatingPointError, "images", lambda: half_read.describe(IMAGES)),
        (ValueError, "no threshold", lambda: Embedding(NET).accepts(torch.ones(2))),
        (ValueError, "expected a distance > 0", lambda: Embedding(NET, threshold=-0.3)),
        (ValueError, "expected a distance > 0", lambda: BlackBoxRecogniser(NET).with_threshold(0.0)),
        (ValueError, "square", lambda: Chip()(torch.zeros(2, 1, 4, 5))),
        (ValueError, "square", lambda: Chip()(torch.zeros(2, 2, 4, 4))),
        (ValueError, "low < high", lambda: Chip(low=1.0, high=0.0)),
    ):
        with pytest.raises(error, match=words):
            call()


def cubic(at: float) -> list[tuple[int, float]]:
    """(pixel, weight) of Keys' cubic, a = -1/2, at a place between pixels: written from the paper."""
    first = int(np.floor(at)) - 1
    found = []
    for pixel in range(first, first + 4):
        t = abs(at - pixel)
        weight = 1.5 * t**3 - 2.5 * t**2 + 1 if t < 1 else -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
        found.append((pixel, weight))
    return found


def test_a_chip_is_a_cubic_enlargement_in_grey_levels():
    """Against a loop; beyond the border the weights are cut off and made to sum to 1 again."""
    image = 0.8 * torch.rand(1, 1, 5, 5) - 0.4
    chip = Chip(size=20)(image)
    assert chip.shape == (1, 3, 20, 20) and torch.equal(chip[:, 0], chip[:, 2])

    def weights(k):
        inside = [(p, w) for p, w in cubic((k + 0.5) * 5 / 20 - 0.5) if 0 <= p < 5]
        total = sum(w for _, w in inside)
        return [(p, w / total) for p, w in inside]

    for row, column in ((0, 0), (3, 9), (10, 10), (19, 7), (12, 19)):
        value = sum(a * b * float(image[0, 0, p, q]) for p, a in weights(row) for q, b in weights(column))
        assert math.isclose(float(chip[0, 0, row, column]), (value + 1) * 127.5, rel_tol=1e-12)


def test_levels_are_those_of_a_file_or_real_ones():
    colours = torch.tensor([-3.0, 0.4, 0.6, 100.3, 254.7, 300.0], requires_grad=True)
    real, file = RealLevels()(colours), EightBits()(colours)
    assert real.tolist() == [0, 0.4, 0.6, 100.3, 254.7, 255] and file.tolist() == [0, 0, 1, 100, 255, 255]
    assert torch.autograd.grad(real.sum(), colours)[0].tolist() == [0, 1, 1, 1, 1, 0]
    assert torch.autograd.grad(file.sum(), colours)[0].tolist() == [1] * 6
    single = (255 * torch.rand(10000, dtype=torch.float32)).requires_grad_()
    assert torch.equal(EightBits()(single), single.round())  # to the last bit: a file would cut off 99.99999


def test_images_of_another_dtype_than_the_network_are_named():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).float().requires_grad_(False)
    for dtype in (torch.float16, torch.float64):
        with pytest.raises(ValueError, match=f"Embedding: got images of {dtype}, expected torch.float32"):
            Embedding(network).describe(torch.ones(1, 2, 2, dtype=dtype))
    with pytest.raises(RuntimeError, match="shapes"):  # the network's own words
        Embedding(network).describe(torch.ones(1, 3, 3, dtype=torch.float32))
