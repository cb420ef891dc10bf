"""Blends are their formulas, sample by sample; the best of several is."""

import math

import pytest
import torch
from identities import crowd, ode, one, pair, seen_by

from pullback.guidance import (
    BestMorph,
    EqualContrast,
    InvertedBlend,
    LatentBlend,
    Lerp,
    Pair,
    PixelBlend,
    PlainAverage,
    Slerp,
    morph,
)
from pullback.solvers import DATA, VP, Denoiser


def test_slerp_turns_evenly_and_keeps_the_length():
    a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    for weight in (0.0, 0.25, 0.5, 1.0):
        angle = weight * math.pi / 2
        expected = 2 * torch.tensor([[math.cos(angle), math.sin(angle)]])
        torch.testing.assert_close(Slerp()(a, b, weight), expected)


@pytest.mark.parametrize("b", [[3.0, 0.0], [-1.0, 0.0], [0.0, 0.0]], ids=["parallel", "opposite", "zero"])
def test_slerp_is_the_line_where_there_is_no_angle(b):
    a, b = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([b, [0.0, 1.0]])
    found = Slerp()(a, b, 0.3)
    torch.testing.assert_close(found[0], torch.lerp(a[0], b[0], 0.3))
    torch.testing.assert_close(found[1], Slerp()(a[1:], b[1:], 0.3)[0])


def test_every_draw_is_turned_by_itself():
    a, b = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)  # (slots, B, ...)
    found = Slerp()(a, b, 0.3, lead=2)
    for slot in range(3):
        torch.testing.assert_close(found[slot], Slerp()(a[slot], b[slot], 0.3))
    torch.testing.assert_close(Lerp()(a, b, 0.3, lead=2), 0.7 * a + 0.3 * b)


def test_equal_contrast_gives_both_the_same_say():
    a, b = torch.randn(2, 1, 5, 5), torch.randn(2, 1, 5, 5)
    found = EqualContrast()(a, b, 0.3)
    torch.testing.assert_close(EqualContrast()(5 * a, b, 0.5).std((1, 2, 3), correction=0),
                               (5 * a.std((1, 2, 3), correction=0) + b.std((1, 2, 3), correction=0)) / 2)  # fmt: skip
    alone = [(v - v.mean()) / v.std(correction=0) for v in (a[0], b[0])]
    z = 0.7 * alone[0] + 0.3 * alone[1]
    expected = 0.7 * a[0].mean() + 0.3 * b[0].mean()
    expected = expected + (0.7 * a[0].std(correction=0) + 0.3 * b[0].std(correction=0)) * z / z.std(
        correction=0
    )
    torch.testing.assert_close(found[0], expected)
    flat = torch.ones(1, 1, 5, 5)
    torch.testing.assert_close(EqualContrast()(flat, 3 * flat, 0.5), 2 * flat)


@pytest.mark.parametrize("averaging", [PlainAverage(), EqualContrast()])
def test_averages_end_at_the_subjects(averaging):
    a, b = torch.randn(2, 1, 5, 5), torch.randn(2, 1, 5, 5)
    torch.testing.assert_close(averaging(a, b, 0.0), a)
    torch.testing.assert_close(averaging(a, b, 1.0), b)


def test_latent_blends_of_gaussian_data_end_at_the_subjects():
    """By fine steps, both ways along the exact flow."""
    model, subjects = one().denoiser(VP()), pair()
    for weight, image in ((0.0, subjects.first), (1.0, subjects.second)):
        found = morph(model, ode(200), subjects, [seen_by()], LatentBlend(weight), progress=False)
        torch.testing.assert_close(found.images, image, atol=2e-3, rtol=0)


def test_a_line_of_gaussian_latents_is_the_line_of_images():
    """A run of a Gaussian's denoiser is affine: lerp of latents and of pixels are one where encoding is exact."""
    model, subjects = one().denoiser(VP()), pair()
    found = morph(model, ode(200), subjects, [seen_by()], LatentBlend(0.3, Lerp()), progress=False)
    torch.testing.assert_close(
        found.images, torch.lerp(subjects.first, subjects.second, 0.3), atol=2e-3, rtol=0
    )


def test_a_pixel_blend_asks_no_network():
    def never(x, t, cond=None):
        raise AssertionError

    model, subjects = Denoiser(never, VP(), DATA), pair()
    found = morph(model, ode(), subjects, [seen_by()], BestMorph.of_weights(PixelBlend()), progress=False)
    assert found.nfe == found.vjps == 0 and found.looks == 10 and found.latents is None
    plain = morph(model, ode(), subjects, [seen_by()], PixelBlend(0.3), progress=False)
    torch.testing.assert_close(plain.images, 0.7 * subjects.first + 0.3 * subjects.second)


def test_the_inverted_blend_is_the_decoded_code_of_the_average():
    model, subjects = crowd().denoiser(VP()), pair()
    found = morph(model, ode(200), subjects, [seen_by()], InvertedBlend(0.4), progress=False)
    torch.testing.assert_close(
        found.images, torch.lerp(subjects.first, subjects.second, 0.4), atol=0.05, rtol=0
    )
    assert found.nfe == 2 * ode(200).nfe and found.latents is not None


def test_the_best_of_several_is_found_for_each_pair():
    model, subjects, eye = crowd().denoiser(VP()), pair(), seen_by()
    each = [morph(model, ode(), subjects, [eye], LatentBlend(k / 10), progress=False) for k in range(1, 10)]
    best = morph(model, ode(), subjects, [eye], BestMorph.of_weights(LatentBlend()), progress=False)
    losses = torch.stack([one.loss for one in each])
    torch.testing.assert_close(best.loss, losses.amin(0))
    assert len(losses.argmin(0).unique()) > 1
    for row, k in enumerate(losses.argmin(0).tolist()):
        torch.testing.assert_close(best.images[row], each[k].images[row])
        assert best.latents is not None and each[k].latents is not None
        torch.testing.assert_close(best.latents.start[row], each[k].latents.start[row])
    assert best.nfe == 2 * ode().nfe + 9 * ode().nfe  # the subjects are encoded once


def test_what_does_not_fit_is_said():
    a = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"Pair: got images \(2, 3\).*expected the same twice; crop"):
        Pair(a, a[:1])
    with pytest.raises(ValueError, match=r"Pair: got conditioning.*expected.*row"):
        Pair(a, a, torch.zeros(2), torch.zeros(1))
    with pytest.raises(ValueError, match="BestMorph: got .*expected a tuple of strategies"):
        BestMorph(())
    with pytest.raises(ValueError, match="of_weights: got count=0, expected at least 1"):
        BestMorph.of_weights(PixelBlend(), 0)


def test_conditioning_lies_on_the_line_and_labels_are_the_nearer_subjects():
    subjects = Pair(torch.zeros(2, 3), torch.ones(2, 3), {"code": torch.zeros(2, 4), "label": torch.tensor([1, 2])},
                    {"code": torch.ones(2, 4), "label": torch.tensor([3, 4])})  # fmt: skip
    between = subjects.cond(0.7)
    torch.testing.assert_close(between["code"], torch.full((2, 4), 0.7))
    assert between["label"].tolist() == [3, 4]
