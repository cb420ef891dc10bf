"""Direct-gradient objectives and Adjoint Matching against plain autograd and their formulas."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from objectives import PLAN, PROCESS, flat, gradients, policy_on, reward, updates, weights_of
from oracles import batch_of
from problems import MIXTURE
from torch import Tensor

from pullback.adjoint import CoupledSum, GridLevels, IndependentDraws, PerStep, sample_multilevel
from pullback.guidance import (
    DDPO,
    DPOK,
    AdjointMatching,
    AlignProp,
    Chain,
    DRaFT,
    DRaFTLV,
    Estimator,
    FlowGRPO,
    NormalCut,
    Policy,
    ReFL,
    UniformCut,
    visited,
)
from pullback.guidance.objectives.lean_adjoint import Pairing, adjoint_path
from pullback.guidance.objectives.peers import World
from pullback.solvers import (
    DATA,
    DDIM,
    Addressed,
    ClassifierFree,
    CosineVP,
    Denoiser,
    DPMSolverPP,
    GivenNoise,
    SDEDPMSolverPP,
    UniformLambda,
    run,
)

# direct gradients
# ------------------------------------------------------------------------------------------------------


def test_draft_is_plain_autograd_and_finite_differences():
    policy, batch = policy_on(), batch_of(PLAN, 3, 2, d=2)
    (grad,) = gradients(DRaFT(), policy, batch)
    plain = flat(-reward(run(policy.denoiser, PLAN, batch.x, noise=batch.noise), None).mean(), policy)
    assert torch.allclose(grad, plain, rtol=1e-10, atol=1e-12)
    weight, found = weights_of(policy)[0], []
    with torch.no_grad():
        for sign in (1, -1):
            weight[3, 1] += sign * 1e-5
            found.append(float(-reward(run(policy.denoiser, PLAN, batch.x, noise=batch.noise), None).mean()))
            weight[3, 1] -= sign * 1e-5
    assert float(grad[10]) == pytest.approx(
        (found[0] - found[1]) / 2e-5, abs=1e-8
    )  # row 3, column 1 of (64, 3)


@pytest.mark.parametrize("last", [1, 2, 5, 6, 9])
def test_draft_k_is_an_explicit_stop_gradient(last):
    policy, batch = policy_on(), batch_of(PLAN, 3, 2, d=2)
    cut = max(0, 6 - last)
    x = visited(policy, batch)[cut]
    tail = PLAN.split(cut)[1] if cut else PLAN
    plain = flat(-reward(run(policy.denoiser, tail, x, noise=batch.noise), None).mean(), policy)
    assert torch.allclose(gradients(DRaFT(last), policy, batch)[0], plain, rtol=1e-10, atol=1e-12)


def test_the_early_steps_of_draft_k_run_without_a_graph():
    seen = []

    def spy(x, t):
        seen.append(torch.is_grad_enabled())
        return scale * x

    scale = torch.nn.Parameter(torch.tensor(0.5))

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = scale

        def forward(self, x, t):
            return spy(x, t)

    list(updates(DRaFT(2), Policy(Denoiser(Net(), PROCESS, DATA), PLAN), batch_of(PLAN, 2, 0, d=2)))
    assert seen[:4] == [False] * 4


def test_truncated_path_kl_is_that_of_the_last_steps():
    """With last = K the KL's gradient is cut where the reward's is."""
    policy, batch = policy_on(), batch_of(PLAN, 3, 2, d=2)
    (pieces,) = updates(DRaFT(2, kl=0.7), policy, batch)
    (whole,) = updates(DRaFT(kl=0.7), policy, batch)
    assert pieces[0][0].figures["kl"] == pytest.approx(whole[0][0].figures["kl"], rel=1e-12)
    assert not torch.allclose(pieces[0][1], whole[0][1], rtol=1e-2)


def test_draft_lv_is_the_last_step_from_fresh_noise():
    """Its gradient against stop-gradient by hand; its mean over noises goes to the expectation."""
    policy, batch = policy_on(), batch_of(PLAN, 4, 3, d=2)
    x0, t = visited(policy, batch)[-1], PLAN.times[-2]
    tail = PLAN.split(5)[1]

    def one(slot: int) -> Tensor:
        x = PROCESS.alpha(t) * x0 + PROCESS.sigma(t) * batch.noise(slot, x0)
        return flat(-reward(run(policy.denoiser, tail, x, noise=batch.noise), None).mean(), policy)

    exact = (one(6) + one(7)) / 2
    assert torch.allclose(gradients(DRaFTLV(), policy, batch)[0], exact, rtol=1e-10, atol=1e-12)
    many = gradients(DRaFTLV(n=100), policy, batch)[0]
    other = torch.stack([one(1000 + i) for i in range(100)])
    off = (many - other.mean(0)) / (other.std(0) * (2 / 100) ** 0.5 + 1e-12)
    assert float(off.abs().max()) < 5 and float(off.square().mean()) < 2


def test_alignprop_draws_one_depth_for_all():
    """The gradient is that of some DRaFT-K; depths vary with the shared generator and stay in 1 .. N."""
    policy, batch = policy_on(), batch_of(PLAN, 3, 2, d=2)
    exact = {k: gradients(DRaFT(k), policy, batch)[0] for k in range(1, 7)}
    found = []
    for seed in range(12):
        grad = gradients(AlignProp(cut=UniformCut()), policy, batch, seed=seed)[0]
        found += [k for k, value in exact.items() if torch.allclose(grad, value, rtol=1e-9, atol=1e-12)]
    assert len(found) == 12 and len(set(found)) > 2
    generator = torch.Generator().manual_seed(0)
    depths = torch.tensor([NormalCut().last(50, generator) for _ in range(4000)], dtype=torch.float64)
    assert (
        float(depths.mean()) == pytest.approx(8.5, abs=0.4)
        and int(depths.min()) >= 1
        and int(depths.max()) <= 50
    )


# across grids
# ------------------------------------------------------------------------------------------------------


CUT_OR_NOT = (DRaFT, lambda **given: AlignProp(cut=UniformCut(), **given))


def across(allocation, draws=IndependentDraws(), method=DPMSolverPP(2)):
    return GridLevels(method, PROCESS, UniformLambda(6, start=1.0, end=0.02), (2, 6), allocation, draws)


@pytest.mark.parametrize("method", [DPMSolverPP(2), DDIM(1.0)], ids=str)
@pytest.mark.parametrize("make", CUT_OR_NOT, ids=["draft", "alignprop"])
def test_levels_of_all_samples_are_the_fine_sampler(make, method):
    """Every sample on both grids: the gradient and the log are those of the objective on the finer plan."""
    found = across(CoupledSum((1.0, 1.0)), method=method)
    policy, ids = policy_on(found.plan(1)), (3, 1, 2)
    noise = Addressed(2, ids)
    batch = replace(batch_of(found.plan(1), 3, 2, d=2), noise=noise)
    on_path = replace(batch, noise=found.noise(noise, ids, 1) or noise)
    for seed in range(3):
        (ours,) = updates(make(levels=found), policy, batch, seed=seed)
        (plain,) = updates(make(), policy, on_path, seed=seed)
        assert torch.allclose(ours[0][1], plain[0][1], rtol=1e-9, atol=1e-12)
        assert ours[0][0].figures["reward"] == pytest.approx(plain[0][0].figures["reward"])
        assert ours[0][0].rewards is not None and plain[0][0].rewards is not None
        assert torch.allclose(ours[0][0].rewards, plain[0][0].rewards)


@pytest.mark.parametrize("make", CUT_OR_NOT, ids=["draft", "alignprop"])
def test_gradients_across_levels_are_unbiased(make):
    """One start, of which an id decides whether it goes up: both gradients by their chances are the fine plan's."""
    found = across(CoupledSum((1.0, 0.4)))
    policy, batch = policy_on(found.plan(1)), batch_of(found.plan(1), 1, 2, d=2)

    def each(ids):
        for k in ids:
            (((loss, grad),),) = updates(make(levels=found), policy, replace(batch, noise=Addressed(0, (k,))))
            drawn = sample_multilevel(
                policy.denoiser, found, batch.x, noise=Addressed(0, (k,)), gradient=None
            )
            assert loss.rewards is not None
            yield len(drawn.weights) > 1, (loss.rewards, grad)

    seen = dict(each(range(8)))
    fine = updates(make(), policy, batch)[0][0]
    assert fine[0].rewards is not None
    for k, whole in enumerate((fine[0].rewards, fine[1])):
        assert torch.allclose(0.6 * seen[False][k] + 0.4 * seen[True][k], whole, rtol=1e-9, atol=1e-11)
    assert not torch.allclose(seen[False][1], fine[1], rtol=0.05)


def test_contexts_and_conditioning_go_with_their_sample():
    """A reward that reads a list and a tensor of each sample sees those of the start that a row comes from."""
    found, seen = across(CoupledSum((1.0, 0.5))), []

    def told(x, context):
        seen.append((len(x), context["text"], context["target"]))
        return -(x - context["target"]).square().sum(1)

    policy, batch = policy_on(found.plan(1)), batch_of(found.plan(1), 4, 2, d=2)
    batch = replace(batch, context={"text": ["a", "b", "c", "d"], "target": torch.arange(8.0).view(4, 2)})
    (losses,) = DRaFT(levels=found).updates(policy, batch, None, told, World(), torch.Generator())
    loss = next(iter(losses))
    ((rows, texts, targets),) = seen
    assert rows == len(texts) > 4 and loss.rewards is not None and loss.rewards.shape == (4,)
    assert all("abcd"[int(target[0]) // 2] == text for text, target in zip(texts, targets, strict=True))


def test_what_does_not_go_with_levels_is_refused():
    found = across(CoupledSum((1.0, 0.5)))
    policy, batch = policy_on(found.plan(1)), batch_of(found.plan(1), 3, 2, d=2)
    with pytest.raises(ValueError, match="last=None"):
        DRaFT(2, levels=found)
    for objective in (DRaFT(kl=0.1, levels=found), AlignProp(kl=0.1, levels=found)):
        with pytest.raises(ValueError, match="kl=0"):
            objective.check(replace(policy, plan=PLAN))
    with pytest.raises(ValueError, match="one process"):
        DRaFT(levels=replace(found, process=CosineVP())).check(policy)
    with pytest.raises(ValueError, match="expected addresses"):
        given = replace(batch, noise=GivenNoise(torch.zeros(6, 3, 2)))
        list(updates(DRaFT(levels=found), policy, given))
    without: list[Callable[..., Any]] = [ReFL, DRaFTLV, DDPO, AdjointMatching]
    for refuses in without:
        with pytest.raises(TypeError, match="levels"):
            refuses(levels=found)


def test_refl_is_one_prediction_late_on_the_way():
    policy, batch = policy_on(), batch_of(PLAN, 3, 2, d=2)
    states = visited(policy, batch)
    exact = {}
    for m in (5,):  # ceil(0.75 * 6) is the last step
        t = PLAN.times[m]
        eps = policy.denoiser(states[m], torch.full((3,), t))
        x0 = (states[m] - PROCESS.sigma(t) * eps) / PROCESS.alpha(t)
        exact[m] = flat(1e-3 * (2 - reward(x0, None)).relu().mean(), policy)
    (pieces,) = updates(ReFL(), policy, batch)
    assert (
        torch.allclose(pieces[0][1], exact[5], rtol=1e-9, atol=1e-15)
        and "prediction_reward" in pieces[0][0].figures
    )
    (pieces,) = updates(ReFL(ceiling=-100.0), policy, batch)
    assert float(pieces[0][1].abs().max()) == 0
    rounds = [
        updates(ReFL(first=0.0), policy, batch, seed=seed)[0][0][0].figures["prediction_reward"]
        for seed in range(12)
    ]
    assert len(set(rounds)) > 3


def test_refl_cuts_per_step_conditioning():
    class Shifted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(0.5))

        def forward(self, x, t, c):
            return self.scale * x + c

    policy = Policy(Denoiser(Shifted(), PROCESS, DATA), PLAN)
    batch = replace(batch_of(PLAN, 3, 2, d=2), cond=PerStep(torch.arange(6.0)[:, None, None].expand(6, 3, 2)))
    assert float(gradients(ReFL(ceiling=1e6), policy, batch)[0].abs()) > 0


# identities at the reference
# -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [lambda: DDPO(minibatches=2, kl=0.5), lambda: FlowGRPO(kl=0.5), lambda: DPOK(kl=0.5, passes=1)]
)
@pytest.mark.parametrize(
    "plan",
    [PLAN, SDEDPMSolverPP(2).plan(PROCESS, UniformLambda(6, start=0.95, end=0.05))],
    ids=["DDIM", "SDE 2M"],
)
def test_in_float32_the_first_ratio_is_one_to_the_last_bit(make, plan):
    """And the KL of a policy that is its own reference is 0."""
    policy = policy_on(plan, moved=0.1)
    policy.denoiser.network.float()
    policy.denoiser.network.mixture = MIXTURE.to(torch.float32)
    policy = replace(policy, reference=policy.denoiser)
    for pieces in updates(make(), policy, batch_of(plan, 4, 1, d=2, dtype=torch.float32)):
        for loss, _ in pieces:
            assert (
                loss.figures["ratio_off"] == 0.0
                and loss.figures["clipped"] == 0.0
                and loss.figures["kl"] == 0.0
            )


def test_the_ratio_leaves_one_when_weights_move():
    policy, batch, world = policy_on(), batch_of(PLAN, 4, 1, d=2), World()
    objective = DDPO(passes=2)
    experience = objective.rollout(policy, batch, reward, world)
    off = []
    for losses in objective.updates(policy, batch, experience, reward, world, torch.Generator()):
        off.append(max(loss.figures["ratio_off"] for loss in losses))
        with torch.no_grad():
            weights_of(policy)[-1].add_(0.1)
    assert off[0] == 0.0 and off[1] > 1e-3


def test_adjoint_matching_uses_the_control_of_now_and_the_stored_adjoint():
    """At the reference the control is 0; weights moved after the rollout show in the loss, the adjoint stays."""
    policy, batch, world = policy_on(moved=0.0), batch_of(PLAN, 4, 1, d=2), World()
    objective = AdjointMatching(kl=0.5, sampled=None)
    experience = objective.rollout(policy, batch, reward, world)

    def figures(name: str) -> list[float]:
        (losses,) = objective.updates(policy, batch, experience, reward, world, torch.Generator())
        return [loss.figures[name] for loss in losses]

    assert max(figures("kl_of_a_step")) < 1e-28
    before = figures("matching")
    with torch.no_grad():
        weights_of(policy)[-1].add_(0.1)
    assert min(figures("kl_of_a_step")) > 1e-6 and figures("matching") != before


def test_adjoint_matching_is_the_formula():
    """|(m - m0)/s + s a_{k+1}|^2/2 by plain autograd, and left-end pairing is another loss."""
    policy, batch = policy_on(), batch_of(PLAN, 4, 1, d=2)
    states = visited(policy, batch)
    adjoint: list[Any] = [None] * 7
    end = states[6].clone().requires_grad_()
    adjoint[6] = torch.autograd.grad(-reward(end, None).sum() / 0.5, end)[0]

    def step(model, x, k):
        return run(model, PLAN.split(k)[1].split(1)[0], x, noise=GivenNoise(torch.zeros(6, 4, 2)))

    for k in range(5, -1, -1):
        x = states[k].clone().requires_grad_()
        adjoint[k] = torch.autograd.grad(step(policy.reference, x, k), x, adjoint[k + 1])[0]
    totals: dict[int, Any] = {}
    for pair in (0, 1):
        totals[pair] = 0.0
        for k in range(6):
            s = PLAN.instructions[2 * k + 1].noise[0][0]
            off = (
                step(policy.denoiser, states[k], k) - step(policy.reference, states[k], k)
            ) / s + s * adjoint[k + pair]
            totals[pair] = totals[pair] + 0.5 * off.square().sum(1).mean()
    for pairing in Pairing:
        grad = gradients(AdjointMatching(kl=0.5, sampled=None, pairing=pairing), policy, batch)[0]
        assert torch.allclose(grad, flat(totals[pairing.value], policy), rtol=1e-9, atol=1e-11)


def test_sampled_steps_stand_for_all():
    policy, batch = policy_on(), batch_of(PLAN, 4, 1, d=2)
    exact = gradients(AdjointMatching(kl=0.5, sampled=None), policy, batch)[0]
    found = torch.stack(
        [gradients(AdjointMatching(kl=0.5, sampled=4), policy, batch, seed=seed)[0] for seed in range(24)]
    )
    off = (found.mean(0) - exact) / (found.std(0) / 24**0.5 + 1e-9 * float(exact.abs().max()))
    assert float(off.square().mean()) < 3
    exact = gradients(DDPO(mode=Estimator.SF), policy, batch)[0]
    found = torch.stack(
        [gradients(DDPO(mode=Estimator.SF, fraction=0.5), policy, batch, seed=seed)[0] for seed in range(24)]
    )
    off = (found.mean(0) - exact) / (found.std(0) / 24**0.5 + 1e-9 * float(exact.abs().max()))
    assert float(off.square().mean()) < 3


def test_guided_adjoints_are_a_choice():
    """Under classifier-free guidance adjoint and control are the conditional model's unless asked otherwise."""

    class Labelled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(0.3))

        def forward(self, x, t, c=None):
            return self.scale * x * (1.0 if c is None else c)

    inner, base = (Denoiser(Labelled(), PROCESS, DATA) for _ in range(2))
    batch = replace(batch_of(PLAN, 4, 1, d=2), cond=torch.full((4, 2), 1.5))
    guided = Policy(ClassifierFree(inner, 4.0), PLAN, ClassifierFree(base, 4.0))
    plain = Policy(inner, PLAN, base)
    world = World()
    objective = AdjointMatching(kl=0.5, sampled=None)
    experience: Any = objective.rollout(guided, batch, reward, world)
    states = experience.states
    exact = adjoint_path(Chain.of(PLAN, base, states[0], batch.cond), states, experience.extra["adjoint"][-1])
    assert torch.allclose(experience.extra["adjoint"], exact, rtol=1e-12)
    other: Any = AdjointMatching(kl=0.5, guided=True).rollout(guided, batch, reward, world)
    assert torch.equal(other.states, states) and not torch.allclose(other.extra["adjoint"], exact, rtol=1e-3)
    assert not torch.equal(visited(plain, batch), states)  # the rollout is guided
