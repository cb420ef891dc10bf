"""An attack's points lie in their balls and in the box exactly, in every dtype: compared in fractions."""

from fractions import Fraction

import pytest
import torch

from pullback.guidance import L2, Linf, pgd

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
exact = Fraction.from_float


def moved(point, start):
    """|point - start| of every coordinate, without rounding."""
    pairs = zip(point.double().tolist(), start.double().tolist(), strict=True)
    return [abs(exact(a) - exact(b)) for a, b in pairs]


def starts(dtype):
    """Of every size that meets the radius: much below, about as large, much above."""
    return (torch.randn(20, 5) * 10.0 ** torch.linspace(-4, 1, 20)[:, None]).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("radius", [8 / 255, 0.3, 1.0])
def test_points_lie_in_the_ball_without_rounding(dtype, radius):
    """Linear losses push every coordinate to its limit."""
    start, slope = starts(dtype), torch.randn(20, 5)
    for ball in (Linf(radius), L2(radius)):
        found = pgd(lambda x: (slope * x.double()).sum(1), start, ball, steps=11, restarts=2)
        (points,) = found.points
        assert points.dtype == dtype
        for point, begin in zip(points, start, strict=True):
            sizes = moved(point, begin)
            if isinstance(ball, Linf):
                assert max(sizes) <= exact(radius)
            else:
                assert sum(size**2 for size in sizes) <= exact(radius) ** 2
        # nor do they stay behind: half a step of the dtype from the boundary, where it is fine enough to tell
        far = (points.double() - start.double()).flatten(1)
        reached = far.abs().amax(1) if isinstance(ball, Linf) else far.norm(dim=1)
        steps = torch.finfo(dtype).eps * (start.double().abs().amax(1) + radius)
        assert bool((reached >= radius * (1 - 1e-14) - 3 * steps).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_points_lie_in_the_box_without_rounding(dtype):
    """0.6 is no number of the narrower dtypes: the nearest lies outside."""
    box, given = (-0.6, 0.6), torch.rand(20, 6).sub(0.5).to(dtype)
    given[:3, ::2], given[:3, 1::2] = (
        0.6,
        -0.6,
    )  # over by round-off: starts are clamped, the ball is around that
    start = torch.where(given.double().abs() > 0.6, torch.nextafter(given, torch.zeros_like(given)), given)
    slope = torch.randn(20, 6)
    for ball in (Linf(0.5), L2(0.8)):
        (points,) = pgd(lambda x: (slope * x.double()).sum(1), given, ball, steps=12, box=box).points
        for point, begin in zip(points, start, strict=True):
            assert all(exact(box[0]) <= exact(v) <= exact(box[1]) for v in point.double().tolist())
            sizes = moved(point, begin)
            if isinstance(ball, Linf):
                assert max(sizes) <= exact(0.5)
            else:
                assert sum(size**2 for size in sizes) <= exact(0.8) ** 2
        assert float((points - start).abs().max()) > 0.3


def test_short_steps_add_up_in_bfloat16():
    """A tenth of 8/255 is below half the spacing of bfloat16 at 1.5: ten of them are not."""
    start = torch.full((1, 4), 1.5, dtype=torch.bfloat16)
    (point,) = pgd(lambda x: x.float().sum(1), start, Linf(8 / 255), steps=10).points
    best = (start.double() - 8 / 255).to(torch.bfloat16)
    assert bool(((point - best).abs() <= 2**-7).all()) and bool((point < start).all())
