"""Robust accuracy where it is known: linear classifiers, with and without noise in front."""

import warnings
from dataclasses import dataclass
from math import comb
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from problems import MIXTURE, PROCESS

from pullback.adjoint import Checkpoint, Direct, JacobianFree
from pullback.guidance import (
    DLR,
    L2,
    CrossEntropy,
    Defence,
    DefenceCost,
    Evasion,
    FixedStep,
    Linf,
    Proportion,
    Purified,
    SurrogatePurified,
    TargetedCrossEntropy,
    TargetedDLR,
    Undefended,
    purify,
    robust_accuracy,
    straight_through,
)
from pullback.solvers import DDIM, DDPM, Addressed, Denoiser, DPMSolverPP, UniformLambda
from pullback.solvers.cut_off import cut_off

NORMAL = torch.distributions.Normal(0.0, 1.0)
WEIGHTS = torch.randn(5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def linear(x):
    return x @ WEIGHTS.T


def radius(x, labels, order):
    """Of the smallest change, in L_order, after which a linear classifier no longer reads the label."""
    z, dual = linear(x), {2: 2.0, torch.inf: 1.0}[order]
    own = F.one_hot(labels, 5).bool()
    gaps = z[own][:, None] - z
    sizes = torch.linalg.vector_norm(WEIGHTS[labels][:, None] - WEIGHTS[None], ord=dual, dim=2)
    return (gaps / sizes).masked_fill(own, torch.inf).amin(1)


# the losses
# ---------------------------------------------------------------------------------------------------------------


def test_aims_by_hand():
    z = torch.tensor([[2.0, 5.0, 1.0, 4.0, -1.0], [3.0, 0.5, 2.5, 2.0, 1.0]])
    labels, before = torch.tensor([1, 2]), z + torch.tensor([0.0, 0.0, 0.0, -2.5, 0.0])
    assert torch.allclose(
        DLR().at(before, labels)(z), torch.tensor([(5 - 4) / (5 - 2.0), (2.5 - 3) / (3 - 2.0)])
    )
    # before the attack the likeliest beside the label is class 0 for both, then 3 and 4
    for rank, target in ((1, (0, 0)), (2, (3, 4))):
        spread = torch.tensor([5 - (2 + 1) / 2, 3 - (2 + 1) / 2])
        wanted = torch.stack([5 - z[0, target[0]], 2.5 - z[1, target[1]]]) / spread
        assert torch.allclose(TargetedDLR(rank).at(before, labels)(z), wanted)
    log_p = z.log_softmax(1)
    assert torch.allclose(CrossEntropy().at(before, labels)(z), torch.stack([log_p[0, 1], log_p[1, 2]]))
    second = before.masked_fill(F.one_hot(labels, 5).bool(), -torch.inf).topk(2, dim=1).indices[:, 1]
    assert torch.allclose(TargetedCrossEntropy(2).at(before, labels)(z), -log_p[torch.arange(2), second])
    assert torch.allclose(DLR().at(before, labels)(7 * z + 3), DLR().at(before, labels)(z))


def test_dlr_keeps_a_gradient_where_the_cross_entropy_has_none():
    """A sure classifier, float32: log softmax is 0 with slope 0, the obfuscation that DLR was made for."""
    x = torch.randn(6, 6, dtype=torch.float32)
    weights = 1e4 * WEIGHTS.float()
    labels = (x @ weights.T).argmax(1)
    worst = {}
    for name, aim in (("ce", CrossEntropy()), ("dlr", DLR())):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = robust_accuracy(
                Undefended(lambda x: x @ weights.T), x, labels, L2(3.0), {name: Evasion(aim, steps=20)}
            )
        worst[name] = found.robust.value
        assert any("no gradient" in str(each.message) for each in said) == (name == "ce")
    assert worst["dlr"] == 0 and worst["ce"] > 0.5


# deterministic
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ball, order", [(Linf(0.12), torch.inf), (L2(0.35), 2)], ids=str)
def test_robust_accuracy_of_a_linear_classifier(ball, order):
    x = torch.randn(60, 6)
    labels = torch.where(torch.arange(60) % 7 == 0, 0, linear(x).argmax(1))  # some are misread from the start
    attacks = {
        "ce": Evasion(CrossEntropy(), steps=30), "targeted": Evasion(TargetedDLR(1), steps=30),
        "dlr": Evasion(DLR(), steps=30), "second": Evasion(TargetedCrossEntropy(2), FixedStep(0.2), steps=20),
    }  # fmt: skip
    found = robust_accuracy(Undefended(linear), x, labels, ball, attacks)
    true = radius(x, labels, order)
    sure = (true - ball.radius).abs() > 0.02 * ball.radius
    assert torch.equal((found.robust_share > 0)[sure], (true > ball.radius)[sure]) and bool(sure.sum() > 50)
    assert found.clean == Proportion(int((linear(x).argmax(1) == labels).sum()), 60)
    assert list(found.after) == list(attacks) and found.after["second"].value == found.robust.value
    values = [found.clean.value, *(each.value for each in found.after.values())]
    assert values == sorted(values, reverse=True) and values[0] > values[-1]
    change = (found.images - x).flatten(1)
    sizes = change.abs().amax(1) if order == torch.inf else change.norm(dim=1)
    assert bool((sizes <= ball.radius * (1 + 1e-12)).all())
    assert torch.equal(linear(found.images).argmax(1) != labels, found.robust_share == 0)
    assert torch.equal(found.broken_by >= 0, (found.clean_share > 0) & (found.robust_share == 0))
    assert "after ce" in str(found) and "VJPs an image" in str(found)
    for b in (1, 7):  # one that is read right, one that is not
        one = robust_accuracy(
            Undefended(linear),
            x[b : b + 1],
            labels[b : b + 1],
            ball,
            attacks,
            noise=Addressed(0, samples=[b]),
        )
        assert torch.equal(one.images[0], found.images[b]) and one.broken_by[0] == found.broken_by[b]


def test_a_misreading_on_the_way_counts_though_the_loss_falls_further_behind_it():
    """At x = 0.5 class 1 wins by (0.45, 0.5, 0.05), at x = 1 class 0 by (0.34, 0.33, 0.33), at a greater loss."""
    marks = torch.tensor([[0.9, 0.05, 0.05], [0.45, 0.5, 0.05], [0.34, 0.33, 0.33]]).log()

    def classifier(x):
        between, after = cut_off(2 * x, 0.0, 1.0), cut_off(2 * x - 1, 0.0, 1.0)  # with a slope at x = 0
        return marks[0] + between * (marks[1] - marks[0]) + after * (marks[2] - marks[1])

    x, labels = torch.zeros(1, 1), torch.tensor([0])
    attack = {"ce": Evasion(CrossEntropy(), FixedStep(0.1), steps=12)}
    found = robust_accuracy(Undefended(classifier), x, labels, Linf(1.0), attack)
    assert found.robust.value == 0 and 0.3 < float(found.images) < 0.9
    assert int(classifier(torch.ones(1, 1)).argmax()) == 0


# with noise
# -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Jittered(Defence):
    """sign(w x + s xi): read right with probability Phi(margin/s)."""

    spread: float
    random: ClassVar[bool] = True

    def logits(self, images, noise):
        side = images[:, 0] + self.spread * noise(0, images[:, :1])[:, 0]
        return torch.stack([side, -side], 1)

    def cost(self):
        return Undefended(linear).cost()


def test_the_shares_of_a_random_defence_are_known_and_not_flattered():
    """Six equal attacks with few draws: the least of six noisy shares would lie far below the true one."""
    x, labels = torch.full((250, 2), 1.0), torch.zeros(250, dtype=torch.long)
    attacks = {str(k): Evasion(CrossEntropy(), FixedStep(0.5), steps=4, draws=2) for k in range(6)}
    found = robust_accuracy(Jittered(1.0), x, labels, Linf(0.5), attacks, draws=3)
    for share, margin in ((found.clean_share, 1.0), (found.robust_share, 0.5)):
        p = float(NORMAL.cdf(torch.tensor(margin)))
        assert float(share.mean()) == pytest.approx(p, abs=4 * (p * (1 - p) / 750) ** 0.5)
    p = float(NORMAL.cdf(torch.tensor(0.5)))
    low, high = found.mean_share.wilson()
    assert low < p < high
    majority = p**3 + 3 * p**2 * (1 - p)
    assert found.after["5"].value == pytest.approx(majority, abs=4 * (majority * (1 - majority) / 250) ** 0.5)


@dataclass(frozen=True, eq=False)
class Noisy(Defence):
    """The linear classifier of w x + w xi: a margin of m standard deviations is read right with probability Phi(m)."""

    def logits(self, images, noise):
        side = (images + noise.initial(images)) @ WEIGHTS[0]
        return torch.stack([-side, side], 1)

    def cost(self):
        return DefenceCost(1, 1, 1)


@pytest.mark.parametrize("draws", [1, 3, 11])
@pytest.mark.parametrize("size", [0.0, 0.5, 2.0])
def test_a_random_defence_in_closed_form(size, draws):
    """The worst in the ball lies `size` nearer to the boundary: every figure is a mean of known probabilities."""
    count = 1500
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(2))
    labels = (x @ WEIGHTS[0] > 0).long()
    attacks = {"a": Evasion(steps=4, draws=2, stepping=FixedStep(1.0))}
    found = robust_accuracy(Noisy(), x, labels, L2(size), attacks, draws=draws)
    margin = (x @ WEIGHTS[0]).abs() / WEIGHTS[0].norm()
    for shares, right, p in (
        (found.clean_share, found.clean, NORMAL.cdf(margin)),
        (found.robust_share, found.robust, NORMAL.cdf(margin - size)),
    ):
        assert float(shares.mean()) == pytest.approx(float(p.mean()), abs=4 * (0.25 / count) ** 0.5)
        needed = range(draws // 2 + 1, draws + 1)
        majority = torch.stack([comb(draws, k) * p**k * (1 - p) ** (draws - k) for k in needed]).sum(0)
        error = 4 * float((majority * (1 - majority)).sum()) ** 0.5 / count
        assert right.value == pytest.approx(float(majority.mean()), abs=error)
    if size == 0:
        assert found.robust == found.clean and torch.equal(found.robust_share, found.clean_share)
    else:  # none is left out because one draw happened to misread it
        assert bool((found.images != x).any(1).all())


def test_a_quorum_is_over_draws_of_each_sample():
    x, labels = torch.tensor([[2.0, 0.0], [0.3, 0.0], [-1.0, 0.0]]), torch.zeros(3, dtype=torch.long)
    found = robust_accuracy(Jittered(0.5), x, labels, Linf(0.3), {}, draws=41)
    assert found.clean.successes == 2 and found.robust == found.clean and not found.after
    strict = robust_accuracy(Jittered(0.5), x, labels, Linf(0.3), {}, draws=41, quorum=40 / 41)
    assert strict.clean.successes == 1
    whole = robust_accuracy(Jittered(0.5), x, labels, Linf(0.3), {"ce": Evasion(steps=8, draws=2)}, draws=5)
    alone = robust_accuracy(
        Jittered(0.5), x[1:2], labels[1:2], Linf(0.3), {"ce": Evasion(steps=8, draws=2)}, draws=5,
        noise=Addressed(0, samples=[1]),
    )  # fmt: skip
    assert torch.equal(alone.images[0], whole.images[1])
    assert torch.equal(alone.robust_share[0], whole.robust_share[1])


# purification
# -----------------------------------------------------------------------------------------------------------------

PLAN = DDIM().plan(PROCESS, UniformLambda(5, start=0.4, end=0.05))
MODEL = MIXTURE.denoiser(PROCESS)


def planar(x):
    return x @ torch.tensor([[1.0, -0.4], [0.2, 1.1], [-0.9, -0.3]]).T


def slope(defence, image):
    image = image.clone().requires_grad_()
    out = defence.logits(image, Addressed(4, stream=9))
    return out.detach(), torch.autograd.grad(out[:, 0].sum(), image)[0]


@pytest.mark.parametrize(
    "plan", [PLAN, DDPM().plan(PROCESS, UniformLambda(5, start=0.4, end=0.05))], ids=["ode", "sde"]
)
def test_surrogates_have_the_values_of_the_defence_and_a_gradient_of_their_own(plan):
    image, noise = torch.randn(3, 2), Addressed(4, stream=9)
    exact = slope(Purified(planar, MODEL, plan, Direct()), image)
    for defence in (
        Purified(planar, MODEL, plan, Checkpoint()), SurrogatePurified(planar, MODEL, plan),
        SurrogatePurified(planar, MODEL, plan, last=2), SurrogatePurified(planar, MODEL, plan, last=4),
    ):  # fmt: skip
        assert torch.allclose(slope(defence, image)[0], exact[0], atol=1e-12)
    live = image.clone().requires_grad_()
    drawn = noise if plan.stochastic else None
    clean = purify(MODEL, plan, image, noise.initial(image), noise=drawn, gradient=None)
    by_hand = torch.autograd.grad(planar(straight_through(live, clean))[:, 0].sum(), live)[0]
    assert torch.allclose(slope(SurrogatePurified(planar, MODEL, plan), image)[1], by_hand)
    assert torch.allclose(slope(Purified(planar, MODEL, plan, Checkpoint()), image)[1], exact[1], atol=1e-12)
    last = [slope(SurrogatePurified(planar, MODEL, plan, last=k), image)[1] for k in (0, 2, 4)]
    assert not torch.allclose(last[0], last[1]) and not torch.allclose(last[1], exact[1])


@pytest.mark.parametrize(
    "strategy, last",
    [(Direct(), None), (Checkpoint(), None), (JacobianFree(), None), (Checkpoint(), 0), (Checkpoint(), 2)],
)
def test_the_cost_is_what_was_called(strategy, last):
    seen = []

    def network(x, t):
        seen.append(len(x))
        return MODEL(x, t)

    def classifier(x):
        seen.append(len(x))
        return planar(x)

    model = Denoiser(network, PROCESS, MODEL.prediction)
    defence = Purified(classifier, model, PLAN, strategy)
    through = None if last is None else SurrogatePurified(classifier, model, PLAN, last, Direct())
    attacks = {"a": Evasion(steps=2, restarts=2, draws=2, through=through), "b": Evasion(DLR(), steps=1)}
    x = torch.randn(4, 2)
    found = robust_accuracy(defence, x, planar(x).argmax(1), Linf(0.2), attacks, draws=2)
    assert found.calls == sum(seen) and found.vjps > 0


@pytest.mark.parametrize("call, words", [
    (lambda: robust_accuracy(Undefended(linear), torch.zeros(2, 6), torch.zeros(2), L2(1.0), {}), "whole numbers"),
    (lambda: robust_accuracy(Undefended(linear), torch.zeros(2, 6), torch.zeros(2).long(), L2(1.0), {}, draws=0),
     "draws >= 1"),
    (lambda: robust_accuracy(Undefended(linear), torch.zeros(2, 6), torch.tensor([0, 5]), L2(1.0), {}),
     r"got labels from 0 to 5, expected 0 to 4, the 5 classes"),
    (lambda: robust_accuracy(Undefended(linear), torch.zeros(2, 6), torch.tensor([-1, 4]), L2(1.0), {}),
     r"got labels from -1 to 4"),
    (lambda: DLR().at(torch.zeros(1, 2), torch.zeros(1).long()), "at least 3; take CrossEntropy"),
    (lambda: TargetedDLR(5).at(torch.zeros(1, 5), torch.zeros(1).long()), "a rank of 1"),
    (lambda: SurrogatePurified(planar, MODEL, PLAN, last=5), "all of them are Purified"),
    (lambda: SurrogatePurified(planar, MODEL, DPMSolverPP(2).plan(PROCESS, UniformLambda(5, start=0.4, end=0.05)), 2),
     "one-step method"),
])  # fmt: skip
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_logits_that_are_not_finite_count_for_nobody():
    with pytest.raises(FloatingPointError, match="not finite"):
        robust_accuracy(
            Undefended(lambda x: linear(x) * torch.nan), torch.zeros(2, 6), torch.zeros(2).long(), L2(1.0), {}
        )


def test_a_defence_that_does_not_say_what_it_costs():
    class Silent(Undefended):
        def cost(self):  # pyright: ignore[reportIncompatibleMethodOverride]
            return None

    with pytest.raises(TypeError, match=r"Silent.cost: got None, expected a DefenceCost"):
        robust_accuracy(Silent(linear), torch.zeros(2, 6), torch.zeros(2).long(), L2(1.0), {})


@pytest.mark.parametrize("aim", [CrossEntropy(), TargetedCrossEntropy(1)])
def test_a_masked_gradient_is_said(aim):
    """Rounded logits: the attack goes nowhere, which is no robustness."""
    x = torch.randn(40, 6)
    labels = linear(x).argmax(1)
    with pytest.warns(UserWarning, match=r"no gradient at any step for (\d+) of \1 samples"):
        robust_accuracy(
            Undefended(lambda x: linear(x).round()),
            x, labels, Linf(0.5), {"ce": Evasion(aim, steps=3)},
        )  # fmt: skip
