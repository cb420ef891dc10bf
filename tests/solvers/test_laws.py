"""Laws over generated processes, grids, methods, shapes and dtypes."""

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from problems import MIXTURE, every_method
from torch.utils._pytree import tree_leaves

from pullback.adjoint import (
    Checkpoint,
    Continuous,
    Direct,
    Mechanism,
    PerStep,
    Reversible,
    States,
    Truncated,
    sample,
)
from pullback.solvers import (
    BDIA,
    DATA,
    DDIM,
    DEIS,
    EDICT,
    EDM,
    NOISE,
    OBELM,
    VE,
    VP,
    Addressed,
    CosineVP,
    Denoiser,
    DPMSolverPP,
    RectifiedFlow,
    ReversibleHeun,
    Rex,
    Stages,
    SubVP,
    expand,
    run,
)
from pullback.solvers.prediction import PREDICTIONS, conversion

PROCESSES = [VP(), VP(0.2, 12.0), CosineVP(), SubVP(), VE(), EDM(), RectifiedFlow()]
METHODS = [m for m in every_method() if "Flow" not in str(m)]


@st.composite
def problems(draw):
    """(process, method, falling times, shape, dtype): times at ragged lambdas inside [-4, 4]."""
    process, method = draw(st.sampled_from(PROCESSES)), draw(st.sampled_from(METHODS))
    gaps = draw(st.lists(st.floats(0.05, 1.0), min_size=1, max_size=7))
    lam = torch.tensor([0.0, *gaps], dtype=torch.float64).cumsum(0) - draw(st.floats(0.0, 3.0))
    shape = (draw(st.integers(1, 3)), *draw(st.lists(st.integers(1, 3), min_size=1, max_size=2)))
    return process, method, process.time(lam.clamp(-4.0, 4.0) if process == VE() else lam), shape


@settings(max_examples=60, deadline=None)
@given(problems(), st.sampled_from(PREDICTIONS), st.integers(0, 2**31))
def test_prediction_does_not_matter(problem, prediction, seed):
    """The same network, told as any other prediction, gives the same sample."""
    process, method, times, shape = problem
    plan = method.plan(process, times)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    noise = Addressed(seed)

    def eps(x, t):
        return torch.tanh(x + t.reshape(-1, *[1] * (x.ndim - 1)))

    def told(x, t):
        a, b = conversion(NOISE, prediction, process, t)
        wide = [torch.as_tensor(c, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1)) for c in (a, b)]
        return wide[0] * x + wide[1] * eps(x, t)

    plain = run(Denoiser(eps, process, NOISE), plan, x, noise=noise)
    other = run(Denoiser(told, process, prediction), plan, x, noise=noise)
    assert torch.allclose(plain, other, rtol=1e-9, atol=1e-9 * float(plain.abs().max()))


@settings(max_examples=60, deadline=None)
@given(problems(), st.sampled_from([torch.float32, torch.float64]), st.integers(0, 2**60))
def test_a_run_is_its_canonical_form(problem, dtype, seed):
    """For data predictions that are constants of the call, the sample is the table's row: x and each call's output."""
    process, method, times, shape = problem
    plan = method.plan(process, times)
    if plan.stochastic:
        return
    generator = torch.Generator().manual_seed(seed % 2**31)
    x = torch.randn(shape, generator=generator, dtype=dtype)
    outs = torch.randn(plan.nfe, *shape, generator=generator, dtype=dtype)
    count = iter(range(plan.nfe))
    got = run(Denoiser(lambda x, t: outs[next(count)], process, DATA), plan, x)
    row = expand(plan)[-1, 1:].to(dtype)  # the first column is the time
    terms = row[: 1 + plan.nfe].reshape(-1, *[1] * len(shape)) * torch.stack([x, *outs])
    tolerance = 1e-9 if dtype is torch.float64 else 3e-4
    assert (got - terms.sum(0)).abs().max() <= tolerance * terms.abs().sum(0).max()


@st.composite
def conditioning(draw, shape, steps):
    """A nesting of dicts, lists and tuples around tensors, constant or one row a step."""
    seed = draw(st.integers(0, 2**31))

    def leaf(kind):
        g = torch.Generator().manual_seed(seed + len(kind))
        if kind == "rows":
            return PerStep(torch.randn(steps, *shape, generator=g, dtype=torch.float64).requires_grad_())
        return torch.randn(shape[1:], generator=g, dtype=torch.float64).requires_grad_()

    nests = st.recursive(
        st.sampled_from(["rows", "one"]).map(leaf),
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=2),
            st.lists(inner, min_size=1, max_size=2).map(tuple),
            st.dictionaries(st.sampled_from("ab"), inner, min_size=1, max_size=2),
        ),
        max_leaves=4,
    )
    return draw(nests)


def agree(problem, strategy, seed, data, method=None):
    """The strategy's gradients for x, weights and every leaf of generated conditioning are plain autograd's."""
    process, drawn, times, shape = problem
    plan = (method or drawn).plan(process, times)
    generator = torch.Generator().manual_seed(seed)
    x, weight = (
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2)
    )
    cond = data.draw(conditioning(shape, plan.steps))
    inputs = [x, weight, *(v.values if isinstance(v, PerStep) else v for v in tree_leaves(cond))]

    def network(x, t, c):
        return torch.tanh(x * weight + torch.stack([v + 0 * x for v in tree_leaves(c)]).sum(0))

    model = Denoiser(network, process, DATA)
    got, want = (
        torch.autograd.grad(
            sample(model, plan, x, cond=cond, noise=Addressed(seed), gradient=g).sum(), inputs
        )
        for g in (strategy, Direct())
    )
    for ours, direct in zip(got, want, strict=True):
        assert torch.allclose(ours, direct, rtol=1e-10, atol=1e-10 * float(direct.abs().max()))


REVERSIBLE = [ReversibleHeun(), OBELM(), BDIA(), EDICT(), Rex(Stages.MIDPOINT)]
STRATEGIES = [
    Checkpoint(),
    Checkpoint(mechanism=Mechanism.REGION),
    Truncated(99),
    Checkpoint(recursive=True),
    Checkpoint(memory_budget=10**6),
]


@settings(max_examples=60, deadline=None)
@given(problems(), st.sampled_from(STRATEGIES), st.integers(0, 2**31), st.data())
def test_exact_strategies_agree(problem, strategy, seed, data):
    agree(problem, strategy, seed, data)


@settings(max_examples=40, deadline=None)
@given(problems(), st.sampled_from(REVERSIBLE), st.integers(0, 2**31), st.data())
def test_reversible_agrees(problem, method, seed, data):
    process, _, times, _ = problem
    assume(
        not isinstance(process, VE) and float(process.lam(times[-1]) - process.lam(times[0])) < 4
    )  # round-off grows with it
    agree(problem, Reversible(anchor=2), seed, data, method)


@settings(max_examples=40, deadline=None)
@given(
    problems(),
    st.sampled_from([DDIM(), DPMSolverPP(2), DPMSolverPP(3), DEIS(2), DEIS(4)]),
    st.integers(0, 2**31),
    st.data(),
)
def test_a_second_plan_equal_to_the_first_agrees(problem, method, seed, data):
    agree(problem, Continuous(method=method, states=States.RECORDED), seed, data, method)


@settings(max_examples=40, deadline=None)
@given(problems(), st.integers(2, 6), st.integers(0, 2**60))
def test_batch_mates_never_meet(problem, batch, seed):
    process, method, times, _ = problem
    plan, model = method.plan(process, times), MIXTURE.denoiser(process)
    x = torch.randn(batch, 2, generator=torch.Generator().manual_seed(seed % 2**31), dtype=torch.float64)
    whole = run(model, plan, x, noise=Addressed(seed))
    poisoned = x.clone()
    poisoned[0] = torch.nan
    rest = run(model, plan, poisoned, noise=Addressed(seed))[1:]
    assert torch.equal(whole[1:], rest)
