"""Objectives: their gradients against plain autograd, identities at the reference, checks, and one world in
two halves.
"""

import threading
import warnings
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from objectives import PLAN, PROCESS, flat, gradients, policy_on, reward, updates, weights_of
from oracles import batch_of
from problems import MIXTURE
from torch import Tensor

from pullback.guidance import (
    DDPO,
    DPOK,
    KL,
    AdjointMatching,
    AlignProp,
    Batch,
    Critic,
    DanceGRPO,
    DRaFT,
    DRaFTLV,
    Estimator,
    FlowGRPO,
    OverGroup,
    PerPrompt,
    Policy,
    ReFL,
    Scale,
    StateValue,
    visited,
)
from pullback.guidance.objectives.peers import World
from pullback.solvers import (
    DATA,
    DDIM,
    Denoiser,
    DPMSolverPP,
    FlowSDE,
    GivenNoise,
    Plan,
    RectifiedFlow,
    UniformLambda,
    run,
)

# one world in two halves
# -----------------------------------------------------------------------------------------------


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
    "DRaFT": lambda: DRaFT(kl=0.3),
    "DRaFT-2": lambda: DRaFT(2, kl=0.3, penalty=KL.PER_STEP),
    "AlignProp": lambda: AlignProp(kl=0.3),
    "DRaFT-LV": lambda: DRaFTLV(kl=0.3),
    "ReFL": lambda: ReFL(kl=0.3, ceiling=9.0),
    "DDPO-SF": lambda: DDPO(mode=Estimator.SF, kl=0.3),
    "DDPO-IS": lambda: DDPO(kl=0.3, passes=2, minibatches=2, clip=0.3),
    "DDPO per prompt": lambda: DDPO(PerPrompt(8, 2), kl=0.3, penalty=KL.PER_STEP),
    "DPOK": lambda: DPOK(kl=0.3, passes=2, clip=0.3),
    "DPOK critic": lambda: DPOK(kl=0.3, passes=2, critic=critic()),
    "FlowGRPO": lambda: FlowGRPO(kl=0.3, minibatches=2),
    "DanceGRPO": lambda: DanceGRPO(),
    "FlowGRPO batch": lambda: FlowGRPO(OverGroup(Scale.BATCH)),
    "AdjointMatching": lambda: AdjointMatching(kl=0.5),
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
        assert (
            torch.allclose((a + b) / 2, grad, rtol=1e-9, atol=1e-9 * float(grad.abs().max()))
            and float(grad.abs().max()) > 1e-9
        )


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
            return (
                torch.cat([values, values.new_tensor([3])])
                if values.ndim == 1 and len(values) == 1
                else torch.cat([values] * 2)
            )

    with pytest.raises(ValueError, match="expected equal batches"):
        DDPO().rollout(policy_on(), batch_of(PLAN, 4, 0, d=2), reward, Uneven())


def test_minibatches_must_divide():
    with pytest.raises(ValueError, match="expected a divisor of 4"):
        gradients(DDPO(minibatches=3), policy_on(), batch_of(PLAN, 4, 0, d=2))


# policy gradients by hand
# ---------------------------------------------------------------------------------------------


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
        exact: Any = sum(
            -(advantage - (0.7 * (L - L.mean()) if penalty is KL.PATH else 0.0 * L)) * lp + 0.7 * kl
            for lp, kl, L in zip(logps, kls, later, strict=True)
        )
        grad = flat(exact.mean(), policy) if penalty is KL.PER_STEP else flat_keep(exact.mean(), policy)
        for mode, mean in ((Estimator.SF, False), (Estimator.IS, False), (Estimator.SF, True)):
            ours = DDPO(kl=0.7, penalty=penalty, mode=mode, mean=mean, advantage_clip=1.0, clip=0.5)
            expected = grad / (2 if mean else 1)
            assert torch.allclose(gradients(ours, policy, batch)[0], expected, rtol=1e-8, atol=1e-11), (
                penalty,
                mode,
            )


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
        return Batch(x[own], replace(self.whole.noise, samples=(i,)), self.whole.groups[own])


@pytest.mark.parametrize(
    "make",
    [
        lambda: DRaFT(kl=0.3),
        lambda: DRaFTLV(kl=0.3),
        lambda: ReFL(kl=0.3, ceiling=9.0),
        lambda: AdjointMatching(kl=0.5),
    ],
)
def test_batch_mates_do_not_meet(make):
    """Four batches of one average to the batch of four, where no statistics are shared."""
    policy, whole = policy_on(), batch_of(PLAN, 4, 1, d=2)
    ones = [gradients(make(), policy, _Copy(whole).row(i))[0] for i in range(4)]
    assert torch.allclose(
        torch.stack(ones).mean(0), gradients(make(), policy, whole)[0], rtol=1e-9, atol=1e-11
    )


# what is refused
# -------------------------------------------------------------------------------------------------------

ALL = [
    lambda: DRaFT(),
    lambda: DRaFTLV(),
    lambda: AlignProp(),
    lambda: ReFL(),
    lambda: DDPO(),
    lambda: DPOK(),
    lambda: FlowGRPO(),
    lambda: DanceGRPO(),
    lambda: AdjointMatching(),
]


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


@pytest.mark.parametrize(
    "make", [lambda: DRaFT(kl=0.1), lambda: DDPO(kl=0.1), lambda: FlowGRPO(kl=0.1), lambda: AdjointMatching()]
)
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


@pytest.mark.parametrize(
    "make", [lambda: DRaFT(), lambda: DRaFTLV(), lambda: ReFL(), lambda: AdjointMatching()]
)
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
    for wrong, kind in (
        (lambda x, c: x, ValueError),
        (lambda x, c: x.sum(1) * torch.nan, FloatingPointError),
    ):
        with pytest.raises(kind, match="reward <lambda>"):
            experience = objective.rollout(policy, batch, wrong, World())
            for losses in objective.updates(policy, batch, experience, wrong, World(), torch.Generator()):
                list(losses)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DRaFT(last=0),
        lambda: DRaFT(kl=-1.0),
        lambda: DRaFTLV(n=0),
        lambda: ReFL(first=1.0),
        lambda: DDPO(mode=Estimator.SF, passes=2),
        lambda: DDPO(clip=0.0),
        lambda: AdjointMatching(kl=0.0),
        lambda: DanceGRPO(fraction=0.0),
        lambda: PerPrompt(4, 8),
    ],
)
def test_bad_fields_are_refused(make):
    with pytest.raises(ValueError, match="expected"):
        make()


def test_draft_lv_needs_noise_and_a_last_step_of_its_own():
    policy, batch = policy_on(), batch_of(PLAN, 4, 1, d=2)
    with pytest.raises(ValueError, match="batch without noise"):
        gradients(
            DRaFTLV(),
            policy_on(DDIM().plan(PROCESS, UniformLambda(4, start=0.9, end=0.1))),
            replace(batch, noise=None),
        )
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
