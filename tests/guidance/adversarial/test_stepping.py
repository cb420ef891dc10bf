"""Steps of attacks against the papers' algorithms, written out for one sample at a time."""

import math
import warnings

import pytest
import torch

from pullback.guidance import L2, AutoStep, Expectation, FixedStep, Linf, pgd

CENTRE = torch.tensor([1.3, -0.4, 0.2])


def wavy(x):
    """A bowl with ripples: many minima, slopes that change sign."""
    return (x - CENTRE).square().sum(-1) + 0.6 * torch.sin(7 * x).sum(-1)


def slope(x):
    return 2 * (x - CENTRE) + 4.2 * torch.cos(7 * x)


def onto(ball, change):
    if isinstance(ball, Linf):
        return change.clip(-ball.radius, ball.radius)
    return change * min(1.0, ball.radius / max(float(change.norm()), 1e-300))


def along(ball, gradient):
    return gradient.sign() if isinstance(ball, Linf) else gradient / gradient.norm()


def auto_pgd(ball, start, seen, loss, slope, rho=0.75, alpha=0.75, begin=2.0):
    """Algorithm 1 of arXiv 2003.01690, for minimising: what follows each of the points that were seen (rounding errors
    grow on the way, so that only one step at a time can be compared), and how often it went back to the best.
    """
    steps, marks, p = len(seen) - 1, [], [0.0, 0.22]
    while p[-1] < 1:
        marks.append(math.ceil(p[-1] * steps))
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    eta, best, low, low_there = begin * ball.radius, start, float(loss(start)), float(loss(start))
    last, halved, falls, back, x, f = 0, False, 0, 0, [start], [low]
    for k in range(steps):
        here, g = x[-1], slope(x[-1])
        z = start + onto(ball, here - eta * along(ball, g) - start)
        drift = (1 - alpha) * (here - x[-2]) if k else 0
        yield start + onto(ball, here + (alpha if k else 1) * (z - here) + drift - start), back
        new = seen[k + 1]
        value = float(loss(new))
        falls += value < f[-1]
        if value < low:
            low, best = value, new
        if k + 1 in marks:
            halved = falls < rho * (k + 1 - last) or (not halved and low == low_there)
            if halved:
                eta, new, value, back = eta / 2, best, low, back + 1
            last, low_there, falls = k + 1, low, 0
        x.append(new)
        f.append(value)


def trap(x):
    """Falls to 0.5, where it jumps up by 10 and falls on: most steps lower the loss, and the best stays behind."""
    return (torch.where(x < 0.5, 0.0, 10.0) - x).sum(-1)


@pytest.mark.parametrize("ball", [Linf(1.1), L2(1.6)], ids=str)
@pytest.mark.parametrize("loss, slope, steps, begin", [
    (wavy, slope, 7, 2.0), (wavy, slope, 40, 2.0), (trap, lambda x: -torch.ones_like(x), 40, 0.06),
], ids=["wavy", "wavy, long", "trap"])  # fmt: skip
def test_auto_step_is_auto_pgd(ball, loss, slope, steps, begin):
    start, seen, backs = torch.randn(5, 3).clamp(max=0.45), [], []
    rule = AutoStep(share=begin)
    found = pgd(
        loss, start, ball, steps=steps, stepping=rule, callback=lambda k, points: seen.append(points[0])
    )
    for b in range(5):
        own = [points[b] for points in seen]
        for k, (following, back) in enumerate(auto_pgd(ball, start[b], own, loss, slope, begin=begin)):
            assert torch.allclose(own[k + 1], following, atol=1e-10), k
            backs.append(back)
        assert float(found.loss[b]) == min(float(loss(point)) for point in own)
        one = pgd(loss, start[b : b + 1], ball, steps=steps, stepping=rule)
        assert torch.equal(one.points[0][0], found.points[0][b])
    assert max(backs) > 0  # the law has seen checkpoints bite


@pytest.mark.parametrize("stepping", [AutoStep(), FixedStep(0.3), FixedStep(0.3, momentum=0.9)], ids=str)
def test_several_starts_of_several_dtypes_at_once(stepping):
    """A latent, a conditioning, injected noise: linear losses are least at -radius w/|w| and -radius sign w."""
    w = [torch.randn(4, 3), torch.randn(4, 2, 2), torch.randn(4, 5)]
    starts = (torch.randn(4, 3), torch.randn(4, 2, 2, dtype=torch.float32), torch.randn(4, 5).half())
    balls = (L2(0.7), Linf(0.2), L2(0.5))

    def loss(*points):
        parts = [(u * p.double()).flatten(1).sum(1) for u, p in zip(w, points, strict=True)]
        return torch.stack(parts).sum(0)

    found = pgd(loss, starts, balls, steps=30, stepping=stepping)
    for u, start, ball, point, slack in zip(w, starts, balls, found.points, (1e-9, 1e-6, 3e-3), strict=True):
        unit = u.sign() if isinstance(ball, Linf) else u / u.flatten(1).norm(dim=1, keepdim=True)
        assert point.dtype == start.dtype
        assert torch.allclose(point.double(), start.double() - ball.radius * unit, atol=slack)


def test_auto_step_needs_no_step_size():
    """Against fixed steps of three lengths on losses of three stiffnesses: it is never far from the best of them."""
    start = torch.randn(40, 3)
    for stiff in (0.1, 1.0, 30.0):

        def bowl(x, stiff=stiff):
            return stiff * (x - CENTRE).square().sum(-1) + 0.5 * torch.sin(5 * x).sum(-1)

        fixed = [
            float(pgd(bowl, start, L2(2.0), steps=60, stepping=FixedStep(s)).loss.mean())
            for s in (0.003, 0.03, 0.3)
        ]
        auto = float(pgd(bowl, start, L2(2.0), steps=60, stepping=AutoStep()).loss.mean())
        spread = max(fixed) - min(fixed)
        assert auto <= min(fixed) + 0.25 * spread


@pytest.mark.parametrize("ball", [Linf(0.9), L2(1.3)], ids=str)
def test_momentum_sums_normalised_gradients(ball):
    """MI-FGSM, algorithm 1 of arXiv 1710.06081."""
    start, seen = torch.randn(4, 3), []
    pgd(
        wavy, start, ball, steps=9, stepping=FixedStep(0.2, momentum=0.8),
        callback=lambda k, points: seen.append(points[0]),
    )  # fmt: skip
    for b in range(4):
        x, g = start[b], torch.zeros(3)
        for k in range(9):
            assert torch.allclose(seen[k][b], x, atol=1e-12)
            g = 0.8 * g + slope(x) / slope(x).abs().sum()
            x = start[b] + onto(ball, x - 0.2 * ball.radius * along(ball, g) - start[b])


def test_evaluations_are_counted():
    calls = []

    def counted(x):
        calls.append(x.requires_grad)
        return wavy(x)

    found = pgd(counted, torch.randn(2, 3), L2(1.0), steps=6, restarts=3)
    assert (found.values, found.gradients) == (3, 18) and len(calls) == 21


@pytest.mark.parametrize("make", [
    lambda: FixedStep(0.0), lambda: FixedStep(0.1, momentum=-1.0), lambda: AutoStep(share=0.0),
    lambda: AutoStep(blend=0.0), lambda: AutoStep(falls=1.5),
])  # fmt: skip
def test_bad_numbers_are_refused(make):
    with pytest.raises(ValueError, match="expected share > 0"):
        make()


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_the_default_step_reaches_the_border(steps):
    """2.5 radii in all, whatever the number of steps; a share of one's own is taken as it is."""
    w = torch.randn(3, 4)
    for ball, best in ((Linf(0.1), -0.1 * w.sign()), (L2(0.1), -0.1 * w / w.norm(dim=1, keepdim=True))):
        found = pgd(lambda x: (w * x).sum(1), torch.zeros(3, 4), ball, steps=steps)
        assert torch.allclose(found.points[0], best, atol=1e-12)
    short = pgd(lambda x: (w * x).sum(1), torch.zeros(3, 4), Linf(0.1), steps=2, stepping=FixedStep(0.1))
    assert torch.allclose(short.points[0], -0.02 * w.sign())


def test_samples_without_a_gradient_are_counted():
    x = torch.tensor([[0.2, 0.3], [-1.0, 0.1], [0.4, -0.2]])
    with pytest.warns(UserWarning, match=r"no gradient at any step for 2 of 3 samples, \[0, 2\]"):
        found = pgd(lambda x: x[:, 0].clamp(max=0), x, Linf(0.1), steps=3, restarts=2)
    assert torch.equal(found.points[0][[0, 2]], x[[0, 2]]) and float(found.points[0][1, 0]) < -1
    with warnings.catch_warnings():  # one step without a gradient is none of that: here it starts on the flat
        warnings.simplefilter("error")
        pgd(lambda x: x[:, 0].clamp(max=0), x[:1], Linf(0.5), steps=3, restarts=4)


def test_a_bar_is_shown_where_asked_for(capsys):
    pgd(wavy, torch.randn(2, 3), L2(1.0), steps=3, restarts=2, progress=True)
    assert "8/8" in capsys.readouterr().err
    pgd(wavy, torch.randn(2, 3), L2(1.0), steps=3)
    assert not capsys.readouterr().err


def test_of_noisy_losses_the_last_counts_not_the_luckiest():
    """Noise on the loss alone, far larger than the loss: the least of all steps says nothing of the point."""
    x, target = torch.randn(20, 3), torch.tensor([0.5, 0.2, -0.1])

    def noisy(x, noise):
        return (x - target).square().sum(1) + 50 * noise(0, x[:, :1])[:, 0]

    found = pgd(Expectation(noisy, 1), x, L2(5.0), steps=40, stepping=FixedStep(0.05))
    away = (found.points[0] - target).norm(dim=1)
    assert bool((away < 0.3).all())
