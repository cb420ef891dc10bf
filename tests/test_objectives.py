"""Objectives: their gradients against plain autograd, identities at the reference, checks, and one world in two halves."""

import threading
import warnings
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from oracles import batch_of, corrected
from problems import MIXTURE
from pullback.adjoint import PerStep
from pullback.guidance import (
    DDPO,
    DPOK,
    KL,
    AdjointMatching,
    AlignProp,
    Batch,
    Chain,
    Critic,
    DanceGRPO,
    DRaFT,
    DRaFTLV,
    Estimator,
    FlowGRPO,
    Loss,
    NormalCut,
    Objective,
    OverGroup,
    Pairing,
    PerPrompt,
    Policy,
    ReFL,
    Scale,
    StateValue,
    UniformCut,
    World,
    adjoint_path,
    visited,
)
from pullback.solvers import (
    DATA,
    DDIM,
    VP,
    ClassifierFree,
    Denoiser,
    DPMSolverPP,
    FlowSDE,
    GivenNoise,
    Plan,
    RectifiedFlow,
    SDEDPMSolverPP,
    UniformLambda,
    run,
)
from torch import Tensor

PROCESS = VP()
PLAN: Any = DDIM(1.0).plan(PROCESS, UniformLambda(6, start=1.0, end=0.02))


def reward(x: Tensor, context: object) -> Tensor:
    return -0.5 * (x.flatten(1) - 1).square().sum(1)


def policy_on(plan: Plan = PLAN, moved: float = 0.1) -> Any:
    """Off its reference by `moved`."""
    policy = corrected(MIXTURE, plan)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in policy.denoiser.parameters():
            p.add_(moved * torch.randn(p.shape, generator=generator))
    return policy


def weights_of(policy: Policy) -> list[Tensor]:
    return [p for p in policy.denoiser.parameters() if p.requires_grad]


def updates(objective: Objective, policy: Policy, batch: Batch, world: World | None = None, seed: int = 0,
            ) -> list[list[tuple[Loss, Tensor]]]:
    """Each update's pieces with their gradients (flat), the weights left alone."""
    world, found = world or World(), []
    experience = objective.rollout(policy, batch, reward, world)
    for losses in objective.updates(policy, batch, experience, reward, world, torch.Generator().manual_seed(seed)):
        found.append([(loss, flat(loss.value, policy)) for loss in losses])
    return found


def flat(value: Tensor, policy: Policy) -> Tensor:
    weights = weights_of(policy)
    grads = torch.autograd.grad(value, weights, allow_unused=True)
    return torch.cat([(torch.zeros_like(w) if g is None else g).flatten() for g, w in zip(grads, weights, strict=True)])


def gradients(*args, **kwargs) -> list[Tensor]:
    return [torch.stack([grad for _, grad in pieces]).sum(0) for pieces in updates(*args, **kwargs)]


# one world in two halves -----------------------------------------------------------------------------------------------


class Half(World):
    """One of two processes that run in threads and meet at every gather."""

    size = 2

    def __init__(self, rank: int, shelf: list, barrier: threading.Barrier) -> None:
        self.rank, self.shelf, self.barrier = rank, shelf, barrier

    def gather(self, values: Tensor) -> Tensor:
        self.shelf[self.rank] = values.detach()
        self.barrier.wait(20)
        out = torch.cat(list(self.shelf))
        self.barrier.wait(20)
        return out


def halves(make, plan: Plan, size: int) -> list[list[Tensor]]:
    shelf: list[Any] = [None, None]
    out: list[Any] = [None, None]
    barrier, errors = threading.Barrier(2), list[BaseException]()

    def work(rank: int) -> None:
        torch.set_default_dtype(torch.float64)
        try:
            batch = batch_of(plan, size // 2, 3, d=2, low=rank * (size // 2))
            out[rank] = gradients(make(), policy_on(plan), batch, Half(rank, shelf, barrier))
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return out


def critic() -> Critic:
    return Critic(StateValue(2), lr=0.1)


OBJECTIVES = {
    "DRaFT": lambda: DRaFT(kl=0.3), "DRaFT-2": lambda: DRaFT(2, kl=0.3, penalty=KL.PER_STEP),
    "AlignProp": lambda: AlignProp(kl=0.3),    "DRaFT-LV": lambda: DRaFTLV(kl=0.3), "ReFL": lambda: ReFL(kl=0.3, ceiling=9.0),
    "DDPO-SF": lambda: DDPO(mode=Estimator.SF, kl=0.3),
    "DDPO-IS": lambda: DDPO(kl=0.3, passes=2, minibatches=2, clip=0.3),
    "DDPO per prompt": lambda: DDPO(PerPrompt(8, 2), kl=0.3, penalty=KL.PER_STEP),
    "DPOK": lambda: DPOK(kl=0.3, passes=2, clip=0.3), "DPOK critic": lambda: DPOK(kl=0.3, passes=2, critic=critic()),
    "FlowGRPO": lambda: FlowGRPO(kl=0.3, minibatches=2), "DanceGRPO": lambda: DanceGRPO(),
    "FlowGRPO batch": lambda: FlowGRPO(OverGroup(Scale.BATCH)), "AdjointMatching": lambda: AdjointMatching(kl=0.5),
    "AdjointMatching all": lambda: AdjointMatching(kl=0.5, sampled=None),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_processes_are_one(name):
    """Half the batch each, gradients averaged: the whole batch. Groups of four are cut nowhere, statistics are."""
    make = OBJECTIVES[name]
    whole = gradients(make(), policy_on(), batch_of(PLAN, 16, 3, d=2))
    parts = halves(make, PLAN, 16)
    assert len(whole) == len(parts[0]) == len(parts[1])
    for grad, a, b in zip(whole, *parts, strict=True):
        assert torch.allclose((a + b) / 2, grad, rtol=1e-9, atol=1e-9 * float(grad.abs().max())) and float(grad.abs().max()) > 1e-9


def test_the_critic_is_the_same_on_both_processes_and_restarts():
    made: list[Critic] = []

    def make() -> DPOK:
        made.append(critic())
        return DPOK(critic=made[-1])

    whole = make()
    gradients(whole, policy_on(), batch_of(PLAN, 16, 3, d=2))
    halves(make, PLAN, 16)
    for a, b, c in zip(*(m.net.parameters() for m in made), strict=True):
        assert torch.equal(b, c) and torch.allclose(a, b, rtol=1e-9, atol=1e-12)
    other: Any = DPOK(critic=critic())
    other.load(whole.state())
    a, b = (gradients(o, policy_on(), batch_of(PLAN, 16, 4, d=2))[0] for o in (whole, other))
    assert torch.equal(a, b)
    for p, q in zip(made[0].net.parameters(), other.critic.net.parameters(), strict=True):
        assert torch.equal(p, q)  # after one more fit: the optimiser restarted too


def test_unequal_batches_are_refused():
    class Uneven(World):
        size = 2

        def gather(self, values: Tensor) -> Tensor:
            return torch.cat([values, values.new_tensor([3])]) if values.ndim == 1 and len(values) == 1 else torch.cat([values] * 2)

    with pytest.raises(ValueError, match="expected equal batches"):
        DDPO().rollout(policy_on(), batch_of(PLAN, 4, 0, d=2), reward, Uneven())


def test_minibatches_must_divide():
    with pytest.raises(ValueError, match="expected a divisor of 4"):
        gradients(DDPO(minibatches=3), policy_on(), batch_of(PLAN, 4, 0, d=2))


# direct gradients ------------------------------------------------------------------------------------------------------


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
    assert float(grad[10]) == pytest.approx((found[0] - found[1]) / 2e-5, abs=1e-8)  # row 3, column 1 of (64, 3)


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
    policy, batch = policy_on(), batch_of(PLAN, 4, 2, d=2)
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
    assert float(depths.mean()) == pytest.approx(8.5, abs=0.4) and int(depths.min()) >= 1 and int(depths.max()) <= 50


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
    assert torch.allclose(pieces[0][1], exact[5], rtol=1e-9, atol=1e-15) and "prediction_reward" in pieces[0][0].figures
    (pieces,) = updates(ReFL(ceiling=-100.0), policy, batch)
    assert float(pieces[0][1].abs().max()) == 0
    rounds = [updates(ReFL(first=0.0), policy, batch, seed=seed)[0][0][0].figures["prediction_reward"] for seed in range(12)]
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


# identities at the reference -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: DDPO(minibatches=2, kl=0.5), lambda: FlowGRPO(kl=0.5), lambda: DPOK(kl=0.5, passes=1)])
@pytest.mark.parametrize("plan", [PLAN, SDEDPMSolverPP(2).plan(PROCESS, UniformLambda(6, start=0.95, end=0.05))],
                         ids=["DDIM", "SDE 2M"])
def test_in_float32_the_first_ratio_is_one_to_the_last_bit(make, plan):
    """And the KL of a policy that is its own reference is 0."""
    policy = policy_on(plan, moved=0.1)
    policy.denoiser.network.float()
    policy.denoiser.network.mixture = MIXTURE.to(torch.float32)
    policy = replace(policy, reference=policy.denoiser)
    for pieces in updates(make(), policy, batch_of(plan, 4, 1, d=2, dtype=torch.float32)):
        for loss, _ in pieces:
            assert loss.figures["ratio_off"] == 0.0 and loss.figures["clipped"] == 0.0 and loss.figures["kl"] == 0.0


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
            off = (step(policy.denoiser, states[k], k) - step(policy.reference, states[k], k)) / s + s * adjoint[k + pair]
            totals[pair] = totals[pair] + 0.5 * off.square().sum(1).mean()
    for pairing in Pairing:
        grad = gradients(AdjointMatching(kl=0.5, sampled=None, pairing=pairing), policy, batch)[0]
        assert torch.allclose(grad, flat(totals[pairing.value], policy), rtol=1e-9, atol=1e-11)


def test_sampled_steps_stand_for_all():
    policy, batch = policy_on(), batch_of(PLAN, 4, 1, d=2)
    exact = gradients(AdjointMatching(kl=0.5, sampled=None), policy, batch)[0]
    found = torch.stack([gradients(AdjointMatching(kl=0.5, sampled=4), policy, batch, seed=seed)[0] for seed in range(24)])
    off = (found.mean(0) - exact) / (found.std(0) / 24**0.5 + 1e-9 * float(exact.abs().max()))
    assert float(off.square().mean()) < 3
    exact = gradients(DDPO(mode=Estimator.SF), policy, batch)[0]
    found = torch.stack([gradients(DDPO(mode=Estimator.SF, fraction=0.5), policy, batch, seed=seed)[0] for seed in range(24)])
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


# policy gradients by hand ---------------------------------------------------------------------------------------------


def test_ddpo_is_the_formula():
    """-sum_k (A - beta (L_k - mean L_k)) grad log p_k + beta grad KL_k, advantages clipped, by plain autograd."""
    policy, batch = policy_on(), batch_of(PLAN, 8, 1, d=2)
    states = visited(policy, batch)
    r = reward(states[-1], None)
    advantage = ((r - r.mean()) / (r.std(unbiased=False) + 1e-8)).clamp(-1, 1)
    logps, kls = [], []
    for k in range(6):
        step = PLAN.split(k)[1].split(1)[0]
        silent = GivenNoise(torch.zeros(6, 8, 2))
        m, m0 = (run(model, step, states[k], noise=silent) for model in (policy.denoiser, policy.reference))
        s = PLAN.instructions[2 * k + 1].noise[0][0]
        logps.append(torch.distributions.Normal(m, s).log_prob(states[k + 1]).sum(1))
        kls.append(((m - m0) ** 2).sum(1) / (2 * s**2))
    later = [torch.stack([*kls[k + 1 :], torch.zeros(8)]).sum(0).detach() for k in range(6)]
    for penalty in KL:
        exact: Any = sum(-(advantage - (0.7 * (L - L.mean()) if penalty is KL.PATH else 0.0 * L)) * lp + 0.7 * kl
                    for lp, kl, L in zip(logps, kls, later, strict=True))
        grad = flat(exact.mean(), policy) if penalty is KL.PER_STEP else flat_keep(exact.mean(), policy)
        for mode, mean in ((Estimator.SF, False), (Estimator.IS, False), (Estimator.SF, True)):
            ours = DDPO(kl=0.7, penalty=penalty, mode=mode, mean=mean, advantage_clip=1.0, clip=0.5)
            expected = grad / (2 if mean else 1)
            assert torch.allclose(gradients(ours, policy, batch)[0], expected, rtol=1e-8, atol=1e-11), (penalty, mode)


def flat_keep(value: Tensor, policy: Policy) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, weights_of(policy), retain_graph=True)])


def test_which_steps_are_trained():
    policy, batch = policy_on(), batch_of(PLAN, 4, 1, d=2)
    assert len(updates(DDPO(), policy, batch)[0]) == 6 and len(updates(FlowGRPO(), policy, batch)[0]) == 5
    assert len(updates(DanceGRPO(), policy, batch)[0]) == 3
    closed = DDIM(1.0).plan(PROCESS, torch.linspace(1.0, 0.0, 7))  # its last step draws nothing
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        DDPO().check(policy_on(closed))
    assert any("steps [5]" in str(w.message) for w in told)
    assert len(updates(DDPO(), policy_on(closed), batch_of(closed, 4, 1, d=2))[0]) == 5


@dataclass(frozen=True, eq=False)
class _Copy:
    whole: Any

    def row(self, i: int) -> Batch:
        x, own = self.whole.x, slice(i, i + 1)
        return Batch(x[own], GivenNoise(torch.stack([self.whole.noise(k, x)[own] for k in range(8)])), self.whole.groups[own])


@pytest.mark.parametrize("make", [lambda: DRaFT(kl=0.3), lambda: DRaFTLV(kl=0.3), lambda: ReFL(kl=0.3, ceiling=9.0),
                                  lambda: AdjointMatching(kl=0.5)])
def test_batch_mates_do_not_meet(make):
    """Four batches of one average to the batch of four, where no statistics are shared."""
    policy, whole = policy_on(), batch_of(PLAN, 4, 1, d=2)
    ones = [gradients(make(), policy, _Copy(whole).row(i))[0] for i in range(4)]
    assert torch.allclose(torch.stack(ones).mean(0), gradients(make(), policy, whole)[0], rtol=1e-9, atol=1e-11)


# what is refused -------------------------------------------------------------------------------------------------------

ALL = [lambda: DRaFT(), lambda: DRaFTLV(), lambda: AlignProp(), lambda: ReFL(), lambda: DDPO(), lambda: DPOK(), lambda: FlowGRPO(),
       lambda: DanceGRPO(), lambda: AdjointMatching()]


@pytest.mark.parametrize("make", ALL)
def test_nothing_to_train_is_refused(make):
    frozen = Policy(MIXTURE.denoiser(PROCESS), PLAN, MIXTURE.denoiser(PROCESS))
    with pytest.raises(ValueError, match="none of whose parameters requires grad"):
        make().check(frozen)


@pytest.mark.parametrize("make", ALL[4:])
def test_a_plan_without_noise_is_refused(make):
    for method in (DDIM(), DPMSolverPP(2)):
        with pytest.raises(ValueError, match="none of whose steps draws noise.*take DDIM"):
            make().check(policy_on(method.plan(PROCESS, UniformLambda(4, start=0.9, end=0.1))))


@pytest.mark.parametrize("make", [lambda: DRaFT(kl=0.1), lambda: DDPO(kl=0.1), lambda: FlowGRPO(kl=0.1), lambda: AdjointMatching()])
def test_a_missing_reference_is_refused(make):
    with pytest.raises(ValueError, match="got reference=None"):
        make().check(replace(policy_on(), reference=None))


def test_a_sampler_that_remembers_is_warned_of():
    plan = FlowSDE(0.7).plan(RectifiedFlow(), torch.linspace(1.0, 0.1, 8))
    with pytest.warns(UserWarning, match=r"remember their starting noise \(correlation 0\.\d+"):
        AdjointMatching().check(policy_on(plan))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AdjointMatching().check(policy_on(FlowSDE(2**0.5).plan(RectifiedFlow(), torch.linspace(1.0, 0.1, 8))))
        FlowGRPO().check(policy_on(plan))  # no KL: no claim


@pytest.mark.parametrize("make", [lambda: DRaFT(), lambda: DRaFTLV(), lambda: ReFL(), lambda: AdjointMatching()])
def test_a_reward_without_a_gradient_is_named(make):
    def jpeg_size(x, context):
        return x.detach().sum(1)

    objective, policy, batch = make(), policy_on(), batch_of(PLAN, 4, 1, d=2)
    with pytest.raises(ValueError, match="reward jpeg_size"):
        experience = objective.rollout(policy, batch, jpeg_size, World())
        for losses in objective.updates(policy, batch, experience, jpeg_size, World(), torch.Generator()):
            list(losses)


@pytest.mark.parametrize("make", ALL)
def test_rewards_of_the_wrong_kind_are_refused(make):
    policy, batch, objective = policy_on(), batch_of(PLAN, 4, 1, d=2), make()
    for wrong, kind in ((lambda x, c: x, ValueError), (lambda x, c: x.sum(1) * torch.nan, FloatingPointError)):
        with pytest.raises(kind, match="reward <lambda>"):
            experience = objective.rollout(policy, batch, wrong, World())
            for losses in objective.updates(policy, batch, experience, wrong, World(), torch.Generator()):
                list(losses)


@pytest.mark.parametrize("make", [lambda: DRaFT(last=0), lambda: DRaFT(kl=-1.0), lambda: DRaFTLV(n=0), lambda: ReFL(first=1.0),
                                  lambda: DDPO(mode=Estimator.SF, passes=2), lambda: DDPO(clip=0.0),
                                  lambda: AdjointMatching(kl=0.0), lambda: DanceGRPO(fraction=0.0), lambda: PerPrompt(4, 8)])
def test_bad_fields_are_refused(make):
    with pytest.raises(ValueError, match="expected"):
        make()


def test_draft_lv_needs_noise_and_a_last_step_of_its_own():
    policy, batch = policy_on(), batch_of(PLAN, 4, 1, d=2)
    with pytest.raises(ValueError, match="batch without noise"):
        gradients(DRaFTLV(), policy_on(DDIM().plan(PROCESS, UniformLambda(4, start=0.9, end=0.1))), replace(batch, noise=None))
    with pytest.raises(ValueError, match="whose last step reads"):
        DRaFTLV().check(policy_on(DPMSolverPP(2).plan(PROCESS, UniformLambda(4, start=0.9, end=0.1))))
    assert policy.reference is not None


def test_conditioning_that_cannot_be_split_is_refused():
    class Shifted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(0.5))

        def forward(self, x, t, c):
            return self.scale * x + c

    policy = Policy(Denoiser(Shifted(), PROCESS, DATA), PLAN)
    batch = replace(batch_of(PLAN, 4, 1, d=2), cond=torch.zeros(2))
    with pytest.raises(ValueError, match="expected one for each of 4 samples"):
        gradients(DDPO(minibatches=2), policy, batch)
    each = replace(batch, cond={"shift": torch.arange(8.0).reshape(4, 2), "names": None}["shift"])
    whole = gradients(DDPO(), policy, each)[0]
    parts = gradients(DDPO(minibatches=2), policy, each)
    assert torch.allclose(torch.stack(parts).mean(0), whole, rtol=1e-9)


