"""States of several tensors: every exact strategy against a plain loop that keeps each leaf apart."""

import gc
from typing import Any, cast

import pytest
import torch
from problems import PROCESS
from strategies import EXACT, close
from torch import nn

from pullback.adjoint import (
    AdjointDEIS,
    Checkpoint,
    Continuous,
    Direct,
    Mechanism,
    PerStep,
    Truncated,
    audit,
    sample,
    trajectory,
)
from pullback.guidance import Over, optimise
from pullback.guidance.latents.priors import NormPrior, Priors
from pullback.solvers import (
    BDIA,
    DATA,
    DDIM,
    DDPM,
    Addressed,
    ClassifierFree,
    Denoiser,
    DPMSolverPP,
    Evaluate,
    GivenNoise,
    Model,
    OnData,
    RecordedNoise,
    ReversibleHeun,
    SDEDPMSolverPP,
    UniformT,
    UniPC,
    advance,
    convert,
    decode,
    encode,
    recover_noise,
    run,
)

GRID = UniformT(4, start=0.9, end=0.05)
SHAPES = {"video": (2, 2), "audio": (3,), "tempo": ()}  # of one sample


class Film(nn.Module):
    """A network of a joint state {"video", "sound": (audio, tempo)}: every leaf of its output depends on all."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(9, 6), nn.Linear(6, 8)

    def forward(self, x, t, cond):
        audio, tempo = x["sound"]
        whole = torch.cat([x["video"].flatten(1), audio, tempo[:, None], t[:, None]], 1)
        out = self.outer(torch.tanh(self.inner(whole) + cond))
        return {"sound": (out[:, 4:7], out[:, 7]), "video": out[:, :4].view(-1, 2, 2)}  # in another order


def film(*lead, grad=True):
    def leaf(name):
        return torch.randn(*lead, *SHAPES[name], requires_grad=grad)

    return {"video": leaf("video"), "sound": (leaf("audio"), leaf("tempo"))}


def flat(tree):
    return [tree["video"], *tree["sound"]]


def unflat(leaves):
    return {"video": leaves[0], "sound": tuple(leaves[1:])}


def plainly(plan, net, x, cond, noise, controls, last=None):
    """The loop, with a list of leaves in each register; only the `last` steps have a graph."""
    registers = {"x": flat(x)}
    for step in range(plan.steps):
        if last is not None and step == plan.steps - last:
            registers = {name: [leaf.detach() for leaf in leaves] for name, leaves in registers.items()}
        registers["x"] = [leaf + c[step] for leaf, c in zip(registers["x"], flat(controls), strict=True)]
        for op in plan.step(step):
            if isinstance(op, Evaluate):
                state = registers[op.src]
                found = flat(net(unflat(state), torch.full((2,), cast(float, op.t)), cond.values[step]))
                t = torch.tensor(op.t)
                registers[op.outs[0]] = [
                    convert(out, leaf, DATA, op.want, PROCESS, t)
                    for out, leaf in zip(found, state, strict=True)
                ]
            else:
                registers[op.out] = [
                    sum(c * registers[name][k] for c, name in op.terms)
                    + sum(c * flat(noise)[k][slot] for c, slot in op.noise)
                    for k in range(3)
                ]
    return registers["x"]


CASES = [
    (strategy, method)
    for strategy in EXACT
    for method in (
        (ReversibleHeun(), BDIA())
        if "Reversible" in str(strategy)
        else (DDIM(), DPMSolverPP(2), DDPM(), SDEDPMSolverPP(2), UniPC(2))
    )
]


@pytest.mark.parametrize("strategy, method", CASES, ids=str)
def test_every_leaf_and_its_gradient_is_the_plain_loops(strategy, method):
    torch.manual_seed(1)
    plan, net, x = method.plan(PROCESS, GRID), Film(), film(2)
    noise, controls, cond = (
        film(max(plan.slots, 1), 2),
        film(4, 2),
        PerStep(torch.randn(4, 6).requires_grad_()),
    )
    cut = strategy.last if isinstance(strategy, Truncated) and strategy.last < 4 else None
    wanted = [*flat(x), *flat(controls), *(flat(noise) if plan.slots else []), cond.values, *net.parameters()]

    def gradients(leaves):
        total = torch.stack([(k + 1) * leaf.square().sum() for k, leaf in enumerate(leaves)]).sum()
        found = torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True)
        return [*leaves, *found]

    out = sample(
        Denoiser(net, PROCESS, DATA), plan, x, cond=cond, noise=noise, controls=controls, gradient=strategy
    )
    close(gradients(flat(out)), gradients(plainly(plan, net, x, cond, noise, controls, cut)), 1e-10)


def test_a_single_leaf_is_the_tensor_run_bit_for_bit():
    net = nn.Conv2d(2, 2, 3, padding=1)
    x = torch.randn(3, 2, 4, 4, requires_grad=True)
    for method in (DPMSolverPP(2), DDPM()):
        plan = method.plan(PROCESS, GRID)
        alone = sample(Denoiser(lambda x, t: net(x), PROCESS, DATA), plan, x, noise=Addressed(3))
        joint = sample(Denoiser(lambda x, t: [net(x[0])], PROCESS, DATA), plan, [x], noise=Addressed(3))
        assert isinstance(joint, list) and torch.equal(joint[0], alone)
        grads = [torch.autograd.grad(out.square().sum(), [x, *net.parameters()]) for out in (alone, joint[0])]
        assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


class Oscillator(Model):
    """A model of its own kind over pairs (position, momentum)."""

    process, prediction = PROCESS, DATA

    def __init__(self):
        self.gain = torch.tensor(0.3, requires_grad=True)

    def __call__(self, x, t, cond=None) -> Any:
        q, p = x
        return q.cos() - self.gain * p, p + self.gain * q.sin()

    def parameters(self):
        yield self.gain


def test_position_and_momentum_through_everything_that_takes_a_state():
    """A tuple; a model that is no Denoiser; the other plan of a split; an exact inverse; states along the way."""
    model, x = Oscillator(), (torch.randn(3, 2), torch.randn(3, 2))
    plan = DPMSolverPP(2).plan(PROCESS, GRID)
    end = run(model, plan, x)
    head, tail = plan.split(2)
    between = advance(model, head, x)
    assert isinstance(between["x"], tuple) and tuple(between) == tail.entry
    for left, right in zip(run(model, tail, between), end, strict=True):
        assert torch.equal(left, right)
    for left, right in zip(sample(model, tail, between, gradient=None), end, strict=True):
        assert torch.equal(left, right)
    there = BDIA().plan(PROCESS, GRID)
    back = decode(model, there, encode(model, there, x), dtype=torch.float64)
    close(back, x, 1e-9)
    seen = []
    states = trajectory(model, plan, x, [0, 2, 4], callback=lambda k, t, state: seen.append(state))
    for k, state in zip((0, 2, 4), states, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(state, seen[k], strict=True))
    assert states[0][0].shape == (3, 2) and isinstance(seen[0], tuple)
    grads = torch.autograd.grad(states[1][1].sum() + end[0].sum(), model.gain)
    assert grads[0].abs() > 0


def test_noise_of_a_joint_state():
    """One row for all leaves, by name: the order in which a dict is filled does not matter, and the first leaf's
    numbers are those it has alone. Recorded and recovered draws are those of the run.
    """
    model = Denoiser(lambda x, t: {k: torch.tanh(v) for k, v in x.items()}, PROCESS, DATA)
    plan, x = DDPM().plan(PROCESS, GRID), {"b": torch.randn(2, 3), "a": torch.randn(2, 2, 2)}
    out = sample(model, plan, x, noise=Addressed(5))
    turned = sample(model, plan, {"a": x["a"], "b": x["b"]}, noise=Addressed(5))
    alone = sample(model, plan, {"a": x["a"]}, noise=Addressed(5))
    assert all(torch.equal(out[k], turned[k]) for k in "ab") and torch.equal(alone["a"], out["a"])
    assert list(out) == ["b", "a"]
    kept, single = RecordedNoise(Addressed(5)), Denoiser(lambda x, t: torch.tanh(x), PROCESS, DATA)
    run(model, plan, x, noise=kept)
    again = run(model, plan, x, noise=kept.given())
    given = {"a": torch.randn(4, 2, 2, 2), "b": torch.randn(4, 2, 3)}
    for noise in (given, GivenNoise(given)):
        found = run(model, plan, x, noise=noise)
        for k in "ab":
            alone = run(single, plan, x[k], noise=given[k])
            assert torch.equal(found[k], alone)
    assert all(torch.equal(out[k], again[k]) for k in "ab")
    noisy = SDEDPMSolverPP(2).plan(PROCESS, GRID)
    start, draws = recover_noise(model, noisy, x, noise=Addressed(1))
    close([run(model, noisy, start, noise=draws)[k] for k in "ab"], [x[k] for k in "ab"], 1e-10)
    first = Addressed(7).initial(x)
    assert first["a"].shape == (2, 2, 2) and torch.equal(first["a"], Addressed(7).initial({"a": x["a"]})["a"])


def test_guidance_and_functions_of_the_prediction_act_on_the_leaves():
    """A scale for each sample in classifier-free guidance; OnData's function sees the tree."""

    def net(x, t, cond):
        return {"u": torch.tanh(x["u"]) * cond, "w": x["w"].sin() + cond}

    scale, plan = torch.tensor([0.5, 2.0, 1.0], requires_grad=True), DDIM().plan(PROCESS, GRID)
    model = ClassifierFree(Denoiser(net, PROCESS, DATA), scale, null=torch.tensor(0.1))
    x = {"u": torch.randn(3, 2), "w": torch.randn(3, 2, 2)}
    out = sample(model, plan, x, cond=torch.tensor(0.7))
    for name, plain in (("u", lambda v, c: torch.tanh(v) * c), ("w", lambda v, c: v.sin() + c)):
        guided = Denoiser(lambda v, t, c, plain=plain: plain(v, c), PROCESS, DATA)
        alone = sample(
            ClassifierFree(guided, scale, torch.tensor(0.1)), plan, x[name], cond=torch.tensor(0.7)
        )
        close(
            [out[name], *torch.autograd.grad(out[name].sum(), scale, retain_graph=True)],
            [alone, *torch.autograd.grad(alone.sum(), scale)],
        )

    def clipped(tree):
        return {"u": tree["u"].clamp(-0.1, 0.1), "w": tree["w"]}

    free = Denoiser(lambda x, t: {k: torch.tanh(v) for k, v in x.items()}, PROCESS, DATA)
    held = run(free, OnData(DDIM(), clipped).plan(PROCESS, GRID), x)
    single = Denoiser(lambda x, t: torch.tanh(x), PROCESS, DATA)
    close(
        [held["u"], held["w"]],
        [
            run(single, OnData(DDIM(), lambda v: v.clamp(-0.1, 0.1)).plan(PROCESS, GRID), x["u"]),
            run(single, plan, x["w"]),
        ],
    )


@pytest.mark.parametrize("strategy", [Continuous(), AdjointDEIS()], ids=str)
def test_continuous_adjoints_of_a_joint_state_are_those_of_its_leaves_side_by_side(strategy):
    net, plan, x = nn.Linear(4, 4), DPMSolverPP(2).plan(PROCESS, GRID), torch.randn(3, 4, requires_grad=True)

    def joint(x, t):
        return dict(zip("ab", torch.tanh(net(torch.cat([x["a"], x["b"]], 1))).split([1, 3], 1), strict=True))

    whole = sample(Denoiser(lambda x, t: torch.tanh(net(x)), PROCESS, DATA), plan, x, gradient=strategy)
    parts = sample(Denoiser(joint, PROCESS, DATA), plan, {"a": x[:, :1], "b": x[:, 1:]}, gradient=strategy)
    close(
        torch.autograd.grad(torch.cat([parts["a"], parts["b"]], 1).square().sum(), [x, *net.parameters()]),
        torch.autograd.grad(whole.square().sum(), [x, *net.parameters()]),
    )


def test_optimise_over_a_tree_is_optimise_over_its_leaves_side_by_side():
    net, plan = nn.Linear(4, 4), DDPM().plan(PROCESS, GRID)
    x, controls = torch.randn(3, 4), torch.zeros(4, 3, 4)

    def tree(v, lead=1):
        return {"a": v[..., :1], "b": v[..., 1:].unflatten(-1, (3, 1)) if lead else v}

    def joint(x, t):
        out = torch.tanh(net(torch.cat([x["a"], x["b"].flatten(1)], 1)))
        return tree(out)

    def loss(out):
        return (out["a"] - 1).square().sum(1) + out["b"].square().sum((1, 2))

    settings: dict[str, Any] = dict(
        over=Over(x=True, noise=True, controls=True), steps=4, clip=0.5, progress=False,
        prior=Priors(x=NormPrior(0.1), controls=NormPrior(1.0)), noise=Addressed(2),
    )  # fmt: skip
    got = optimise(
        Denoiser(joint, PROCESS, DATA), plan, loss, tree(x), controls=tree(controls),
        project=lambda s: {"a": s["a"].clamp(-1, 1), "b": s["b"]}, **settings,
    )  # fmt: skip
    want = optimise(
        Denoiser(lambda x, t: torch.tanh(net(x)), PROCESS, DATA), plan, lambda v: loss(tree(v)), x,
        controls=controls, project=lambda s: torch.cat([s[:, :1].clamp(-1, 1), s[:, 1:]], 1), **settings,
    )  # fmt: skip
    assert (
        got.stop == want.stop and got.sample["b"].shape == (3, 3, 1) and got.noise["b"].shape == (4, 3, 3, 1)
    )
    for name in ("sample", "x", "noise", "controls"):
        left, right = getattr(got, name), tree(getattr(want, name))
        close([left["a"], left["b"]], [right["a"], right["b"]])
    close([got.losses], [want.losses])


def test_an_audit_of_a_joint_state():
    x = (torch.randn(2, 3, requires_grad=True), torch.randn(2, 1, requires_grad=True))
    model = Denoiser(lambda x, t: (torch.tanh(x[0] * x[1]), x[1].sin()), PROCESS, DATA)
    rows = audit(model, PLAN, x, lambda out: out[0].square().sum(1) + out[1][:, 0], {"direct": Direct()}).rows
    assert rows[1].error < 1e-14 and rows[0].calls == 4


def test_batch_mates_and_half_precision():
    torch.manual_seed(0)
    net, plan = Film(), SDEDPMSolverPP(2).plan(PROCESS, GRID)
    model, x, cond = Denoiser(net, PROCESS, DATA), film(3, grad=False), torch.zeros(6)
    out = flat(sample(model, plan, x, cond=cond, noise=Addressed(1), gradient=None))
    for k in range(3):
        one = unflat([leaf[k : k + 1] for leaf in flat(x)])
        alone = flat(sample(model, plan, one, cond=cond, noise=Addressed(1, samples=[k]), gradient=None))
        close([leaf[k : k + 1] for leaf in out], alone, 1e-12)
    seen = []

    def spy(x, t):
        seen.extend(leaf.dtype for leaf in x)
        return [leaf.tanh() for leaf in x]

    halves = [torch.randn(2, 3).half().requires_grad_(), torch.randn(2).bfloat16().requires_grad_()]
    done = sample(Denoiser(spy, PROCESS, DATA), DDIM().plan(PROCESS, GRID), halves)
    assert {*seen, *(leaf.dtype for leaf in done)} == {torch.float32}
    done[0].sum().backward()
    assert halves[0].grad is not None and halves[0].grad.dtype == torch.float16
    mixed = run(Denoiser(spy, PROCESS, DATA), PLAN, [torch.zeros(1, 1).float(), torch.zeros(1).double()])
    assert {leaf.dtype for leaf in mixed} == {torch.float64}


def live():
    gc.collect()
    return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())


@pytest.mark.filterwarnings("ignore:sample. not finite")
@pytest.mark.parametrize(
    "strategy", [Direct(), Checkpoint(), Checkpoint(mechanism=Mechanism.REGION)], ids=str
)
@pytest.mark.slow
def test_nothing_of_a_run_outlives_it(strategy):
    """Joint states along the way, a callback, a sample set aside; differentiated and not."""
    net, plan, cond = Film(), SDEDPMSolverPP(2).plan(PROCESS, GRID), torch.zeros(6, requires_grad=True)
    counts = []
    for k in range(8):
        x = film(2)
        with torch.no_grad():
            x["video"][0] = torch.nan if k % 2 else 0.0
        states = trajectory(
            Denoiser(net, PROCESS, DATA), plan, x, [1, 2, 4], cond=cond, noise=Addressed(k), gradient=strategy,
            callback=lambda k, t, state: None, keep_finite=True,
        )  # fmt: skip
        if k < 6:
            torch.stack([state["video"][1].sum() for state in states]).sum().backward()
        del x, states
        net.zero_grad()
        cond.grad = None
        counts.append(live())
    assert len(set(counts[2:])) == 1, counts


PLAN, NOISY = DDIM().plan(PROCESS, GRID), DDPM().plan(PROCESS, GRID)
PAIR = {"a": torch.zeros(2, 3), "b": torch.zeros(2, 1)}


def returning(change):
    return Denoiser(lambda x, t: change(dict(x)), PROCESS, DATA)


@pytest.mark.parametrize(
    "act, words",
    [
        (lambda: run(returning(lambda x: x), PLAN, {}), "x: got {}, expected at least one tensor"),
        (
            lambda: run(returning(lambda x: x), PLAN, PAIR | {"b": None}),
            r"x\['b'\]: got NoneType, expected a tensor",
        ),
        (
            lambda: run(returning(lambda x: x), PLAN, PAIR | {"b": torch.zeros(3, 1)}),
            r"x\['b'\]: got a batch of 3 .*2",
        ),
        (
            lambda: run(returning(lambda x: x), PLAN, PAIR | {"b": torch.zeros(2).long()}),
            r"x\['b'\]: .*floating",
        ),
        (
            lambda: run(returning(lambda x: x), PLAN, PAIR | {"b": torch.zeros(2, 1, device="meta")}),
            r"x\['b'\]: .*on meta, expected 2 on cpu as x\['a'\]",
        ),
        (
            lambda: run(returning(lambda x: x | {"b": x["a"]}), PLAN, PAIR),
            r"network output\['b'\]: got \(2, 3\), expec",
        ),
        (
            lambda: run(returning(lambda x: {"a": x["a"]}), PLAN, PAIR),
            r"network output: got \['a'\].*give \['b'\]",
        ),
        (
            lambda: run(returning(lambda x: x["a"]), PLAN, PAIR),
            r"network output: got a tensor, expected the leaves",
        ),
        (lambda: run(returning(lambda x: x | {"c": 0}), PLAN, PAIR), r"network output.*leave out \['c'\]"),
        (lambda: run(returning(lambda x: x | {"a": 0}), PLAN, PAIR), r"network output\['a'\]: got int"),
        (
            lambda: sample(returning(lambda x: x), NOISY, PAIR, noise={"a": torch.zeros(4, 2, 3)}),
            r"noise: got \['a'\], expected the leaves of x",
        ),
        (
            lambda: sample(
                returning(lambda x: x),
                PLAN,
                PAIR,
                controls={"a": torch.zeros(2, 3), "b": torch.zeros(4, 2, 1)},
            ),
            r"controls\['a'\]: got \(2, 3\), expected \(K, 2, 3\), shaped as x\['a'\]",
        ),
        (
            lambda: run(
                returning(lambda x: x),
                NOISY,
                PAIR,
                noise={k: torch.zeros(n, 2, n) for k, n in (("a", 3), ("b", 1))},
            ),
            r"noise\['b'\]: got \(1, 2, 1\), expected \(3, 2, 1\)",
        ),
        (
            lambda: run(returning(lambda x: x), BDIA().plan(PROCESS, GRID).inverse(), PAIR),
            r"got registers \['a', 'b'\], expected \['x', 'y'\].*encode",
        ),
    ],
)
def test_what_does_not_fit_is_named_by_its_leaf(act, words):
    with pytest.raises(ValueError, match=words):
        act()


def test_a_network_that_knows_no_trees_is_told_what_it_got():
    """Registers of another plan are no state of this one, but a dict all the same."""
    with pytest.raises(TypeError) as caught:
        run(Denoiser(lambda x, t: -x, PROCESS, DATA), PLAN, {"x": torch.zeros(2, 1), "D1": torch.zeros(2, 1)})
    assert "leaves ['D1'], ['x']" in caught.value.__notes__[0]
