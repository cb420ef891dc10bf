"""Weighted samples of coarse grids against the fine run, the limit in closed form, and each other."""

from dataclasses import replace

import pytest
import torch
from lines import END, PROCESS, START, THETA, line, starts, thetas, worth, worth_of_the_law
from torch import Tensor

from pullback.adjoint import (
    Allocation,
    CoupledSum,
    Direct,
    GridLevels,
    IndependentDraws,
    LevelDraws,
    PerStep,
    SingleTerm,
    StratifiedDraws,
    sample,
    sample_multilevel,
)
from pullback.solvers import (
    DATA,
    SEEDS,
    Addressed,
    Denoiser,
    DPMSolverPP,
    Gaussian,
    GivenTimes,
    Method,
    RectifiedFlow,
    SDEDPMSolverPP,
    UniformLambda,
    UniformT,
    moments,
)

GRID = UniformLambda(8, start=START, end=END)
ODE, SDE = DPMSolverPP(2), SDEDPMSolverPP(2)
COUPLED, SINGLE = CoupledSum((1.0, 0.5, 0.25)), SingleTerm((0.5, 0.3, 0.2))


def levels(
    method: Method = ODE,
    steps: tuple[int, ...] = (2, 4, 8),
    allocation: Allocation = COUPLED,
    draws: LevelDraws = IndependentDraws(),
) -> GridLevels:
    return GridLevels(method, PROCESS, GRID, steps, allocation, draws)


def gradients(denoiser, value) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(denoiser.parameters()))])


def fine(denoiser, found, x, noise, level=2) -> Tensor:
    """The gradient of the mean worth on one grid, by plain autograd."""
    drawn = found.noise(noise, noise.samples or tuple(range(len(x))), level)
    out = sample(denoiser, found.plan(level), x, noise=drawn, gradient=Direct())
    return gradients(denoiser, worth(out).mean())


# the sum telescopes
# ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "allocation", [COUPLED, SINGLE, CoupledSum((1.0, 1.0, 0.5)), SingleTerm((0.25, 0.5, 0.25))], ids=str
)
def test_weights_average_to_the_finest_level(allocation):
    """Over all draws, evenly: each sample's weights are 0 but for 1/B at the finest level."""
    v = (torch.arange(2000) + 0.5) / 2000
    mean = 2000 * allocation.table(v).mean(0)
    assert torch.allclose(mean, torch.tensor([0.0, 0.0, 1.0]), atol=1e-10)
    used = (allocation.table(v) != 0).double().mean(0)
    assert torch.allclose(used, torch.tensor([allocation.runs(k) for k in range(3)]), atol=1e-10)


@pytest.mark.parametrize("allocation", [CoupledSum((1.0, 0.5), 0.25), SingleTerm((0.5, 0.25), 0.25)], ids=str)
def test_without_an_end_no_level_keeps_weight(allocation):
    """E w_l = 0 for every level: all of the estimate's weight is at the limit."""
    count = 2**15
    v = (torch.arange(count) + 0.5) / count
    table = count * allocation.table(v)
    assert table.shape[1] > 5
    assert table.mean(0)[:4].abs().max() < 0.05 and allocation.runs(30) > 0
    assert float(table.sum(1).mean()) == pytest.approx(1, abs=1e-4)  # f = 1 has expectation 1


@pytest.mark.parametrize("method", [ODE, SDE], ids=str)
def test_every_sample_on_every_level_is_the_fine_gradient(method):
    """Same draws, all counts equal: the sum is the fine run, in as many calls; the terms, summed by hand, too."""
    denoiser, x, noise = line(), torch.randn(5, 1), Addressed(3)
    for draws in (StratifiedDraws(), IndependentDraws()):
        found = levels(method, allocation=CoupledSum((1.0, 1.0, 1.0)), draws=draws)
        drawn = sample_multilevel(denoiser, found, x, noise=noise)
        assert drawn.calls == 5 * 8 and drawn.levels.tolist() == [2] * 5
        exact = fine(denoiser, found, x, noise)
        assert torch.allclose(gradients(denoiser, drawn.mean(worth(drawn.samples))), exact, rtol=1e-12)
    each = [fine(denoiser, found, x, noise, level) for level in range(3)]
    drawn = sample_multilevel(denoiser, replace(found, allocation=SINGLE), x.repeat(60, 1), noise=noise)
    assert torch.allclose(each[0] + (each[1] - each[0]) + (each[2] - each[1]), exact)
    assert set(drawn.levels.tolist()) == {0, 1, 2}


def per_start(denoiser, found, count, noise, start=None) -> Tensor:
    """Every start's estimate of the gradient at theta, (count, 6); the starts follow theta, unless all are `start`."""
    theta = thetas(count)
    z = noise.initial(torch.zeros(count, 2))
    x = starts(theta, z) if start is None else torch.full((count, 1), start)
    drawn = sample_multilevel(denoiser, found, x, cond=theta, noise=noise)
    (each,) = torch.autograd.grad(drawn.mean(worth(drawn.samples)), theta)
    return count * each


ONE_START = [
    (ODE, IndependentDraws(), COUPLED),
    (SDE, StratifiedDraws(), SINGLE),
    (ODE, StratifiedDraws(), COUPLED),
    (SDE, IndependentDraws(), COUPLED),
    (ODE, StratifiedDraws(), SINGLE),
    (SDE, IndependentDraws(), SINGLE),
]


@pytest.mark.parametrize(
    "method, draws, allocation",
    [*ONE_START[:2], *(pytest.param(*case, marks=pytest.mark.slow) for case in ONE_START[2:])],
    ids=str,
)
def test_gradients_of_one_start_are_unbiased(method, draws, allocation):
    """One start over and over: only levels, and paths, are random; z of every entry against the fine run's."""
    denoiser, count, noise = line(), 1500, Addressed(5)
    found = levels(method, allocation=allocation, draws=draws)
    each = per_start(denoiser, found, count, noise, start=0.7)
    finest = replace(found, allocation=CoupledSum((1.0, 1.0, 1.0)))
    exact = per_start(denoiser, finest, count, noise, start=0.7)
    off = each - exact
    assert float((off.mean(0) / (off.std(0) / count**0.5)).abs().max()) < 3
    coarse = per_start(denoiser, replace(found, steps=(2,), allocation=CoupledSum((1.0,))), count, noise, 0.7)
    biased = coarse - exact
    assert float((biased.mean(0) / (biased.std(0) / count**0.5 + 1e-9)).abs().max()) > 8


# the limit
# ------------------------------------------------------------------------------------------------------


LIMITS = [
    (ODE, (4, 8), CoupledSum((1.0, 0.3), 2**-2.5)),
    (SDE, (4, 8, 16), CoupledSum((1.0, 0.8, 0.5), 2**-1.5)),
    (ODE, (4, 8), SingleTerm((0.6, 0.3), 2**-2.5)),
]


@pytest.mark.parametrize(
    "method, steps, allocation",
    [LIMITS[0], *(pytest.param(*case, marks=pytest.mark.slow) for case in LIMITS[1:])],
)
def test_without_an_end_the_gradient_is_the_limit_s(method, steps, allocation):
    """2,000 draws against the closed form of the law at the end, z < 3 at every entry; the coarsest grid is off."""
    found = levels(method, steps, allocation, IndependentDraws())
    each = per_start(line(), found, 2000, Addressed(11))
    theta = THETA.clone().requires_grad_()
    (exact,) = torch.autograd.grad(worth_of_the_law(theta), theta)
    z = (each.mean(0) - exact) / (each.std(0) / 2000**0.5)
    assert float(z.abs().max()) < 3, z
    coarse = levels(method, steps[:1], CoupledSum((1.0,)), IndependentDraws())
    each = per_start(line(), coarse, 2000, Addressed(11))
    assert float(((each.mean(0) - exact) / (each.std(0) / 2000**0.5)).abs().max()) > 5


# one path on all grids
# ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [GRID, UniformT(8, start=START, end=END)], ids=["lambda", "t"])
def test_a_coarse_run_has_its_own_law_and_the_fine_one_s_path(grid):
    """Each level's draws are independent standard normal; a coarse increment is the sum of the fine ones within it."""
    found = replace(levels(SDE, (2, 4, 8)), grid=grid)
    ids, like = tuple(range(4000)), torch.zeros(4000, 1)
    drawn, width = [], []
    for level in range(3):
        noise = found.noise(Addressed(7), ids, level)
        assert noise is not None
        draws = torch.cat([noise(slot, like) for slot in range(found.plan(level).slots)], 1)
        assert (torch.cov(draws.T) - torch.eye(draws.shape[1])).abs().max() < 0.08
        assert draws.mean(0).abs().max() < 4 / 4000**0.5 and (draws**4).mean(0).sub(3).abs().max() < 0.6
        lam = PROCESS.lam(torch.tensor(found.plan(level).times))
        drawn, width = [*drawn, draws], [*width, (torch.exp(2 * lam) / 2).diff()]
    for level in range(2):
        fine = (drawn[level + 1] * width[level + 1].sqrt()).unflatten(1, (-1, 2)).sum(2)
        assert torch.allclose(drawn[level] * width[level].sqrt(), fine, rtol=1e-6, atol=1e-6)


def test_coarse_runs_of_a_gaussian_have_the_moments_of_their_own_plan():
    """Mean and variance of 4,000 ends on each level against the recursion of the plan's moments, z < 4."""
    law = Gaussian(torch.tensor([0.4]), 0.25)
    denoiser, count = law.denoiser(PROCESS), 4000
    found = levels(SDE)
    x = Addressed(2).initial(torch.zeros(count, 1))
    for level in range(3):
        plan = found.plan(level)
        mean, v = moments(plan, 0.4, 0.25, 0.0, 1.0)
        out = sample(
            denoiser, plan, x, noise=found.noise(Addressed(2), tuple(range(count)), level), gradient=None
        )
        assert abs(float(out.mean() - mean)) < 4 * (v / count) ** 0.5
        assert abs(float(out.var()) - v) < 4 * v * (2 / count) ** 0.5


def test_another_stream_is_another_path():
    found, like = levels(SDE), torch.zeros(400, 1)
    first, other = (found.noise(Addressed(2, stream=stream), tuple(range(400)), 1) for stream in (0, 1))
    assert first is not None and other is not None
    shared = (first(0, like) * other(0, like)).mean()
    assert abs(float(shared)) < 4 / 400**0.5


# batches
# ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [ODE, SDE], ids=str)
def test_a_sample_does_not_know_its_batch_mates(method):
    """With independent draws level, sample and B w are those of a batch of one; with strata the runs are."""
    denoiser, x, ids = line(), torch.randn(6, 1), (4, 9, 2, 30, 31, 7)
    together = sample_multilevel(denoiser, levels(method), x, noise=Addressed(1, ids))
    for k in range(6):
        alone = sample_multilevel(denoiser, levels(method), x[k : k + 1], noise=Addressed(1, ids[k : k + 1]))
        rows = together.owners == k
        assert torch.equal(alone.levels, together.levels[rows])
        assert torch.allclose(alone.samples, together.samples[rows], rtol=1e-12, atol=1e-14)
        assert torch.allclose(alone.weights, 6 * together.weights[rows])
    strata = sample_multilevel(denoiser, levels(method, draws=StratifiedDraws()), x, noise=Addressed(1, ids))
    for k, level, out in zip(strata.owners, strata.levels, strata.samples, strict=True):
        plan, one = levels(method).plan(int(level)), (ids[int(k)],)
        noise = levels(method).noise(Addressed(1), one, int(level))
        assert torch.allclose(
            out, sample(denoiser, plan, x[k : k + 1], noise=noise)[0], rtol=1e-12, atol=1e-14
        )


def test_strata_hold_their_counts():
    """8 samples at shares 1, 1/2, 1/4: 8, 4 and 2 of them, whatever the ids."""
    for seed in range(5):
        drawn = sample_multilevel(
            line(), levels(draws=StratifiedDraws()), torch.randn(8, 1), noise=Addressed(seed)
        )
        assert torch.bincount(drawn.levels).tolist() == [8, 4, 2]
        assert drawn.calls == 8 * 2 + 4 * 4 + 2 * 8
    assert levels().nfe == 1 * 2 + 0.5 * 4 + 0.25 * 8
    assert levels(steps=(2, 4), allocation=CoupledSum((1.0, 0.5), 0.25)).nfe == pytest.approx(
        2 + 0.5 * 4 + sum(0.5 * 0.25**k * 4 * 2**k for k in range(1, 60))
    )


def test_estimates_of_starts_add_up():
    drawn = sample_multilevel(line(), levels(), torch.randn(7, 1), noise=Addressed(0))
    values = worth(drawn.samples)
    assert torch.allclose(drawn.each(values).mean(), drawn.mean(values), rtol=1e-12)


def test_joint_states_prompts_and_empty_batches():
    """Any nesting of x and cond is split by rows and put together again."""

    def network(x, t, cond):
        return {"a": x["a"] * cond["shift"], "b": torch.tanh(x["b"]) + x["a"][:, :1]}

    model = Denoiser(network, PROCESS, DATA)
    x = {"a": torch.randn(5, 2), "b": torch.randn(5, 3)}
    cond = {"shift": torch.rand(5, 1, requires_grad=True), "texts": ["a", "b", "c", "d", "e"]}
    drawn = sample_multilevel(model, levels(draws=StratifiedDraws()), x, cond=cond, noise=Addressed(0))
    assert drawn.samples["b"].shape == (len(drawn.weights), 3)
    (grad,) = torch.autograd.grad(drawn.mean(drawn.samples["a"].sum(1)), cond["shift"])
    assert bool((grad != 0).all())
    empty = sample_multilevel(line(), levels(), torch.zeros(0, 1), noise=Addressed(0))
    assert empty.samples.shape == (0, 1) and empty.calls == 0


def test_what_does_not_fit_is_refused_before_any_call():
    def network(x, t, cond=None):
        raise AssertionError("called")

    denoiser, x, noise = Denoiser(network, PROCESS, DATA), torch.randn(4, 1), Addressed(0)

    def draw(found=levels(), x=x, **given):
        return sample_multilevel(denoiser, found, x, **{"noise": noise, **given})

    for match, refused in (
        ("PerStep", lambda: draw(cond=PerStep(torch.zeros(8, 4, 6)))),
        ("row for each of 4 samples", lambda: draw(cond=torch.zeros(6))),
        ("sample ids", lambda: draw(noise=Addressed(0, (1, 2)))),
        ("draws in step", lambda: draw(levels(SEEDS(2)))),
        ("finite ends", lambda: draw(replace(levels(SDE), process=RectifiedFlow(), grid=UniformT(8)))),
        (r"x\[None\]", lambda: draw(x=torch.tensor(1.0))),
        ("rise", lambda: levels(steps=(4, 2, 8))),
        ("one number for each", lambda: levels(steps=(4, 8))),
        ("any number of steps", lambda: replace(levels(), grid=GivenTimes([1.0, 0.5]))),
        ("variance is infinite", lambda: levels(steps=(4, 8), allocation=CoupledSum((1.0, 0.5), 2**-4.5))),
        ("variance is infinite", lambda: levels(SDE, (4, 8), CoupledSum((1.0, 0.5), 2**-2.5))),
        ("work is", lambda: levels(steps=(4, 8), allocation=SingleTerm((1.0, 0.5), 0.5))),
        ("do not rise", lambda: CoupledSum((1.0, 0.2, 0.3))),
        ("1.0 and then", lambda: CoupledSum((0.5, 0.2))),
        ("expected numbers > 0", lambda: SingleTerm((0.5, 0.0))),
    ):
        with pytest.raises(ValueError, match=match):
            refused()
    with pytest.raises(TypeError, match="noise"):
        draw(noise=torch.zeros(8, 4, 1))
    with pytest.raises(ValueError, match="process"):
        sample_multilevel(Denoiser(network, RectifiedFlow(), DATA), levels(), x, noise=noise)
