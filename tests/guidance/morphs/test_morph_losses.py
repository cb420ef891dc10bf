"""Losses are their formulas, sample by sample, and their gradients are those of the formulas."""

import pytest
import torch
from identities import crowd, judge, ode, one, pair, seen_by
from torch.utils._pytree import tree_map_only

from pullback.guidance import (
    COSINE,
    Anchor,
    DenoiserError,
    Embedding,
    EqualContrast,
    InvertedBlend,
    LatentBlend,
    MorphLoss,
    Pair,
    PixelBlend,
    SumAndDifference,
    Views,
    WorseDistance,
    distances,
    morph,
)
from pullback.guidance.morphs.encoders import FlowEncoder
from pullback.guidance.morphs.scene import Scene
from pullback.solvers import VP, Addressed, RectifiedFlow


def bound(terms, *eyes, model=None):
    """The loss of the pairs, and its scene."""
    scene = Scene(model or crowd().denoiser(VP()), ode(), pair(), FlowEncoder())
    return terms.of(scene, eyes), scene


def by_hand(x, eye, row):
    """(to the first, to the second)."""
    return tuple(
        float(torch.linalg.vector_norm(eye.network(x[row : row + 1]) - eye.network(face[row : row + 1])))
        for face in (pair().first, pair().second)
    )


def test_the_published_loss_is_twice_the_worse_distance():
    first, second = torch.rand(50), torch.rand(50)
    torch.testing.assert_close(SumAndDifference()(first, second), 2 * WorseDistance()(first, second))
    torch.testing.assert_close(
        SumAndDifference(0.5)(first, second), first + second + 0.5 * (first - second).abs()
    )


def test_recognisers_are_weighed_and_every_pair_has_its_own_subjects():
    x, eyes = torch.randn(3, 2), (seen_by(), judge())
    loss, _ = bound(MorphLoss(WorseDistance(), weights=(3.0, 0.5)), *eyes)
    expected = [3 * max(by_hand(x, eyes[0], k)) + 0.5 * max(by_hand(x, eyes[1], k)) for k in range(3)]
    torch.testing.assert_close(loss(x), torch.tensor(expected))
    torch.testing.assert_close(
        distances(eyes[0], x, pair().first, pair().second)[:, 1], torch.tensor(by_hand(x, eyes[0], 1))
    )


def test_the_gradient_is_that_of_the_formula():
    x = torch.randn(3, 2, requires_grad=True)
    loss, _ = bound(
        MorphLoss(SumAndDifference(0.3), realism=(DenoiserError(0.7), Anchor(0.4))), seen_by(), judge()
    )
    assert torch.autograd.gradcheck(loss, x)


def test_batch_mates_do_not_meet():
    x = torch.randn(3, 2)
    terms = MorphLoss(realism=(DenoiserError(0.7), Anchor(0.4, EqualContrast())))
    loss, _ = bound(terms, seen_by())
    rows = torch.tensor([2, 0])
    context = tree_map_only(torch.Tensor, lambda each: each[rows], loss.context)
    torch.testing.assert_close(loss.given(x[rows], context), loss(x)[rows])


def test_the_denoiser_error_is_its_formula():
    law, x = crowd(), torch.randn(3, 2)
    model, times = law.denoiser(VP()), (0.3, 0.6)
    loss, scene = bound(MorphLoss(WorseDistance(), weights=(0.0,), realism=(DenoiserError(2.0, times, 5),)),
                        seen_by(), model=model)  # fmt: skip
    expected = torch.zeros(3)
    for j, t in enumerate(times):
        alpha, sigma = VP().alpha(t), VP().sigma(t)
        noise = Addressed(5)(j, x[:1])
        eps = law.noise(alpha * x + sigma * noise, alpha, sigma)
        expected += 2.0 / 2 * (noise - eps).square().mean(1)
    torch.testing.assert_close(loss(x), expected)
    assert (scene.spent.nfe, scene.spent.vjps, scene.spent.looks) == (2, 0, 1)
    loss(x.requires_grad_())
    assert (scene.spent.nfe, scene.spent.vjps, scene.spent.looks) == (4, 2, 2)


def test_the_denoiser_error_grows_off_the_data():
    law, levels = crowd(), tuple(torch.linspace(0.2, 0.4, 200).tolist())
    loss, _ = bound(MorphLoss(weights=(0.0,), realism=(DenoiserError(1.0, levels),)), seen_by())
    on, off = loss(law.means[:3]), loss(2.5 * law.means[:3])  # outwards, away from all identities
    assert bool((off > 3 * on).all()) and bool((off > 1).all())


@pytest.mark.parametrize("times", [(0.0,), (1.0,)])
def test_a_level_without_noise_or_data_is_refused(times):
    model = crowd().denoiser(RectifiedFlow())
    with pytest.raises(ValueError, match="DenoiserError: got time .*expected a level with data and noise"):
        bound(MorphLoss(realism=(DenoiserError(1.0, times),)), seen_by(), model=model)


def test_an_anchor_holds_to_the_inverted_average():
    model = one().denoiser(VP())
    loss, scene = bound(MorphLoss(weights=(0.0,), realism=(Anchor(2.0),)), seen_by(), model=model)
    mean = morph(model, ode(), pair(), [seen_by()], InvertedBlend(), progress=False).images
    x = torch.randn(3, 2)
    torch.testing.assert_close(loss(x), 2 * (x - mean).square().mean(1))
    assert scene.spent.nfe == 2 * ode().nfe  # made once, and looked at as often as one likes


def test_views_are_shifts_with_a_grain():
    x, views = torch.randn(2, 1, 5, 5), Views(reach=1, grain=0.2, seed=3)
    seen = views(x)
    assert len(seen) == 9
    for k, (dy, dx) in enumerate((y, z) for y in (-1, 0, 1) for z in (-1, 0, 1)):
        grain = 0.2 * Addressed(3)(k, x[:1])
        torch.testing.assert_close(seen[k], x.roll((dy, dx), (2, 3)) + grain)
    torch.testing.assert_close(Views(0, 0.0)(x)[0], x)


def test_the_loss_is_the_mean_over_views():
    faces = torch.randn(2, 3, 1, 5, 5)
    eye = Embedding(lambda x: x.flatten(1)[:, :9].sin(), distance=COSINE)
    scene = Scene(crowd().denoiser(VP()), ode(), Pair(*faces), FlowEncoder())
    loss, x = MorphLoss(WorseDistance(), views=Views()).of(scene, (eye,)), torch.randn(3, 1, 5, 5)
    expected = torch.stack([distances(eye, view, *faces).amax(0) for view in Views()(x)]).mean(0)
    torch.testing.assert_close(loss(x), expected)
    assert scene.spent.looks == 9


def test_distances_are_reported_for_the_loss_and_for_judges():
    model = crowd().denoiser(VP())
    found = morph(model, ode(), pair(), [seen_by()], LatentBlend(), judges=[judge()], progress=False)
    assert found.distances.shape == (2, 2, 3)
    for k, eye in enumerate((seen_by(), judge())):
        torch.testing.assert_close(
            found.distances[k], torch.tensor([by_hand(found.images, eye, row) for row in range(3)]).T
        )
    torch.testing.assert_close(found.worse, found.distances.amax(1))
    torch.testing.assert_close(found.loss, 2 * found.worse[0])


def test_what_does_not_fit_is_said():
    for make, said in (
        (lambda: SumAndDifference(1.5), "SumAndDifference: got balance=1.5, expected 0 to 1"),
        (lambda: DenoiserError(1.0, ()), r"DenoiserError: got times=\(\), expected a tuple"),
        (lambda: Views(-1), "Views: got reach=-1"),
        (
            lambda: bound(MorphLoss(weights=(1.0,)), seen_by(), judge()),
            r"MorphLoss: got weights \(1.0,\) for 2",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            make()
    model = crowd().denoiser(VP())
    with pytest.raises(ValueError, match="recognisers: got none, expected at least one"):
        morph(model, ode(), pair(), [], PixelBlend())
