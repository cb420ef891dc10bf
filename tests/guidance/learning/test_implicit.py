"""Single-loop optimisation through sampling: gradients against unrolling, optima against closed forms."""

import math

import pytest
import torch
from torch import nn

from pullback.adjoint import sample
from pullback.guidance import adam
from pullback.guidance.latents import Stop, lbfgs
from pullback.guidance.latents.optimisation import sgd
from pullback.guidance.learning import LangevinChain, ShiftQueue, implicit_diffusion
from pullback.solvers import (
    DATA,
    DDIM,
    DDPM,
    FLOW,
    VP,
    Addressed,
    ClassifierFree,
    Denoiser,
    DPMSolverPP,
    FlowEuler,
    Mixture,
    RectifiedFlow,
    UniformLambda,
    UniformT,
)

GRID = UniformLambda(5, 1.0, 0.02)


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(1)
        self.w = torch.nn.Parameter(0.5 * torch.randn(2, 3, generator=g))
        self.c = torch.nn.Parameter(torch.zeros(2))

    def forward(self, x, t, cond=None):
        more = 0.0 if cond is None else cond
        return torch.tanh(torch.cat([x, t[:, None]], 1) @ self.w.T) + self.c + more


def noise(count, seed=0):
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))


def far(x):
    return (x - torch.tensor([1.0, -0.5])).square().sum(1)


def seen(turns, sampler, network, loss=far):
    """What each turn brought, with the parameters standing still."""
    advance = sampler.start(list(network.parameters()), loss)
    return [advance(k) for k in range(turns)]


@pytest.mark.parametrize("case", ["ddim", "flow", "ddpm"])
def test_while_parameters_stand_still_a_turn_gives_the_gradient_of_unrolling(case):
    network, x = Small(), noise(3)
    process, method = {
        "ddim": (VP(), DDIM()), "flow": (RectifiedFlow(), FlowEuler()), "ddpm": (VP(), DDPM())
    }[case]  # fmt: skip
    plan = method.plan(process, UniformT(5) if case == "flow" else GRID)
    model, cond = (
        Denoiser(network, process, FLOW if case == "flow" else DATA),
        torch.tensor([[0.1], [0.2], [-0.3]]),
    )
    starts = (lambda k: noise(3, k)) if case == "ddpm" else (lambda k: x)
    moves = seen(17, ShiftQueue(model, plan, starts, cond), network)
    assert [move.losses is not None for move in moves] == [k >= 4 for k in range(17)]
    whole = [k for k, move in enumerate(moves) if move.gradient is not None]
    assert whole == list(range(9, 17))

    def unrolled(turn):
        """Losses and gradient of the run that began at this turn."""
        addresses = Addressed(0, range(turn * 3, turn * 3 + 3)) if plan.slots else None
        losses = far(sample(model, plan, starts(turn), cond=cond, noise=addresses))
        return losses, torch.autograd.grad(losses.mean(), list(network.parameters()))

    for k in range(4, 17):
        assert (moves[k].losses - unrolled(k - 4)[0]).abs().max() < 1e-12
    if case == "ddpm":  # its runs differ: the law below
        return
    for k in whole:
        gradient = moves[k].gradient
        assert gradient is not None
        for found, exact in zip(gradient, unrolled(0)[1], strict=True):
            assert (found - exact).abs().max() < 1e-12
    assert (moves[-1].nfe, moves[-1].vjps) == (2 * 5 * 3, 5 * 3)


def test_a_run_of_a_stochastic_plan_gives_its_own_gradient_in_parts():
    """A loss of one run alone, the first that comes back to a full queue: over all turns its gradient is whole."""
    network, plan, arrived = Small(), DDPM().plan(VP(), GRID), []
    model = Denoiser(network, VP(), DATA)

    def loss(x):
        arrived.append(1)
        return far(x) if len(arrived) == 7 else 0.0 * far(x)

    turning = ShiftQueue(model, plan, lambda k: noise(3, k)).start(list(network.parameters()), loss)
    total = [torch.zeros_like(p) for p in network.parameters()]
    for k in range(16):
        gradient = turning(k).gradient
        for t, g in zip(total, gradient or [], strict=gradient is not None):
            t += g
    out = sample(model, plan, noise(3, 6), noise=Addressed(0, range(18, 21)))
    for found, exact in zip(
        total, torch.autograd.grad(far(out).mean(), list(network.parameters())), strict=True
    ):
        assert (found - exact).abs().max() < 1e-12


def test_the_law_of_a_langevin_chain_moves_as_its_covariance_says():
    """V = |x - theta|^2/(2 v) and f = |x - m|^2: d E f/d theta = 2 (theta - m), from draws of the law."""
    v, m, g = 0.7, torch.tensor([1.0, -2.0]), torch.Generator().manual_seed(0)
    theta = torch.tensor([0.3, 0.4], requires_grad=True)
    x = theta.detach() + math.sqrt(v) * torch.randn(200_000, 2, generator=g)
    chain = LangevinChain(lambda x: (x - theta).square().sum(1) / (2 * v), x, size=1e-6)
    move = chain.start([theta], lambda x: (x - m).square().sum(1))(0)
    assert move.gradient is not None
    assert (move.gradient[0] - 2 * (theta.detach() - m)).abs().max() < 0.05
    assert (move.nfe, move.vjps) == (200_000, 400_000)


def test_a_langevin_chain_reaches_the_optimum():
    v, m = 0.7, torch.tensor([1.0, -2.0])
    theta = torch.zeros(2, requires_grad=True)
    chain = LangevinChain(lambda x: (x - theta).square().sum(1) / (2 * v), noise(64), size=0.1)
    found = implicit_diffusion(
        chain, lambda x: (x - m).square().sum(1), [theta], optimiser=sgd(0.05), steps=400, progress=False
    )
    assert (found.averages[0] - m).abs().max() < 0.1
    assert found.losses[-50:].mean() < 0.35 * found.losses[:5].mean()
    assert (found.updates, found.stop) == (400, Stop.STEPS)


@pytest.mark.slow
def test_a_mixture_is_tilted_to_its_optimum():
    """V = V_0 - theta x: weights w e^{theta mu + s^2 theta^2/2}, means mu + s^2 theta, and so a known E|x - m|^2."""
    means, std, m = (
        torch.tensor([[-1.0, 0.0], [1.0, 0.5]]),
        torch.tensor([0.5, 0.6]),
        torch.tensor([1.0, -0.5]),
    )
    base = Mixture.isotropic(torch.ones(2) / 2, means, std)

    def exact(theta):
        weights = (means @ theta + std**2 * theta.square().sum() / 2).softmax(0)
        return weights @ ((means + std[:, None] ** 2 * theta - m).square().sum(1) + 2 * std**2)

    best = torch.zeros(2, requires_grad=True)
    search = torch.optim.LBFGS([best], max_iter=100, line_search_fn="strong_wolfe")

    def value():
        search.zero_grad()
        out = exact(best)
        out.backward()
        return out

    search.step(value)
    theta = torch.zeros(2, requires_grad=True)
    chain = LangevinChain(lambda x: -base.log_prob(x) - x @ theta, noise(256), size=0.05)
    found = implicit_diffusion(
        chain, lambda x: (x - m).square().sum(1), [theta], optimiser=adam(0.05), steps=250, progress=False
    )
    reached, least = float(exact(found.averages[0])), float(exact(best.detach()))
    assert reached - least < 0.02 * (float(exact(torch.zeros(2))) - least)


def test_a_queue_reaches_the_optimum_of_unrolling():
    """Gaussian data through DDIM with a learned shift of D: x_0 is linear in it, and the best shift known."""
    v, m = 0.5, torch.tensor([1.5, -1.0])
    shift = torch.zeros(2, requires_grad=True)
    process = VP()

    def data(x, t):
        alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
        return alpha * v / (alpha**2 * v + sigma**2) * x + shift

    model, plan = Denoiser(data, process, DATA), DDIM().plan(process, GRID)
    with torch.no_grad():
        gain = sample(model, plan, torch.zeros(1, 2), gradient=None)
        shift += 1.0
        gain = (sample(model, plan, torch.zeros(1, 2), gradient=None) - gain)[0]
        shift -= 1.0
    queue = ShiftQueue(model, plan, lambda k: noise(16, k))
    found = implicit_diffusion(
        queue, lambda x: (x - m).square().sum(1), [shift], optimiser=sgd(0.03), steps=150, progress=False
    )
    assert (found.averages[0] - m / gain).abs().max() < 0.15
    assert found.updates == 150 - 9 and found.nfe < 150 * 2 * 5 * 16


def test_an_interrupt_keeps_what_was_reached_and_bad_things_are_named():
    theta = torch.zeros(2, requires_grad=True)
    turns = []

    def loss(x):
        turns.append(1)
        if len(turns) == 10:
            raise KeyboardInterrupt
        return far(x)

    def energy(x):
        return (x - theta).square().sum(1)

    found = implicit_diffusion(LangevinChain(energy, noise(8)), loss, [theta], steps=50, progress=False)
    assert (found.stop, found.updates) == (Stop.INTERRUPT, 9) and theta.grad is None
    with pytest.raises(FloatingPointError, match="step 0"):
        implicit_diffusion(
            LangevinChain(energy, noise(8)), lambda x: x.sum(1) * torch.inf, [theta], progress=False
        )
    with pytest.raises(ValueError, match="leaves"):
        implicit_diffusion(LangevinChain(energy, noise(8)), far, [theta * 1], progress=False)
    with pytest.raises(ValueError, match="2 or more"):
        LangevinChain(energy, noise(1))
    queue = ShiftQueue(Denoiser(Small(), VP(), DATA), DPMSolverPP(2).plan(VP(), GRID), lambda k: noise(2))
    with pytest.raises(ValueError, match="step 1 is no single call"):
        queue.start([theta], far)


def test_a_parameter_that_gets_no_gradient_is_named_before_any_update():
    theta, other = (torch.zeros(2, requires_grad=True) for _ in range(2))

    def energy(x):
        return (x - theta).square().sum(1)

    def direct(x):
        return x.square().sum(1) + (other - 3).square().sum()

    network = Small()
    queue = ShiftQueue(Denoiser(network, VP(), DATA), DDIM().plan(VP(), GRID), lambda k: noise(2))
    own = list(network.parameters())
    for sampler, loss, given, match in (
        (LangevinChain(energy, noise(8)), direct, [theta, other], r"parameters\[1\] \(2,\).*loss depends"),
        (LangevinChain(energy, noise(8)), far, [theta, other], r"parameters\[1\] .*nothing depends"),
        (queue, lambda x: far(x) + network.c.square().sum(), own, r"loss that depends on parameters\[1\]"),
        (queue, direct, [*own, other], r"loss that depends on parameters\[2\]"),
        (queue, far, [*own, other], r"parameters\[2\] .*denoiser does not reach"),
    ):
        before = [p.detach().clone() for p in given]
        with pytest.raises(ValueError, match=match):
            implicit_diffusion(sampler, loss, given, steps=12, progress=False)
        assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))
    # the term of a KL: the energy has its parameter too
    kept = LangevinChain(energy, noise(8)).start([theta], lambda x: far(x) + x @ theta)(0)
    assert kept.gradient is not None and kept.gradient[0].norm() > 0


@pytest.mark.parametrize("layer", [nn.Dropout(0.3), nn.BatchNorm1d(2), None], ids=str)
def test_a_network_that_draws_or_mixes_the_batch_is_refused_by_the_queue(layer):
    small = Small()

    class Loud(nn.Module):
        def __init__(self):
            super().__init__()
            self.small, self.layer = small, layer

        def forward(self, x, t):
            out = small(x, t)
            return nn.functional.dropout(out, 0.3, self.training) if layer is None else self.layer(out)

    network = Loud().double().train()
    queue = ShiftQueue(Denoiser(network, VP(), DATA), DDIM().plan(VP(), GRID), lambda k: noise(4))
    with pytest.raises(ValueError, match=r"ShiftQueue.*eval\(\)"):
        implicit_diffusion(queue, far, list(small.parameters()), steps=1, progress=False)
    network.eval()
    implicit_diffusion(queue, far, list(small.parameters()), steps=12, progress=False)


def test_guidance_of_each_row_is_refused_by_the_queue():
    small = Small().double()
    denoiser = Denoiser(small, VP(), DATA)
    for guided, said in (
        (ClassifierFree(denoiser, torch.ones(4)), r"scale \(4,\).*Guided"),
        (ClassifierFree(denoiser, 2.0, torch.zeros(4, 2)), r"null \(4, 2\) for each of 4"),
    ):
        queue = ShiftQueue(guided, DDIM().plan(VP(), GRID), lambda k: noise(4), cond=torch.zeros(4, 2))
        with pytest.raises(ValueError, match=f"ShiftQueue: got ClassifierFree with .*{said}"):
            implicit_diffusion(queue, far, list(small.parameters()), steps=1, progress=False)


@pytest.mark.parametrize("detached", [True, False])
def test_an_energy_free_of_x_is_named(detached):
    theta = torch.zeros(2, requires_grad=True)
    chain = LangevinChain(lambda x: x.detach() @ (theta.detach() if detached else theta), noise(4))
    with pytest.raises(ValueError, match="energy: .*does not depend on x"):
        implicit_diffusion(chain, far, [theta], progress=False)


def test_lbfgs_is_refused_no_update_is_said_and_grad_is_kept():
    network = Small()
    queue = ShiftQueue(Denoiser(network, VP(), DATA), DDIM().plan(VP(), GRID), lambda k: noise(2))
    own = list(network.parameters())
    own[0].grad = mine = torch.ones_like(own[0])
    with pytest.raises(ValueError, match="optimiser: .*L-BFGS"):
        implicit_diffusion(queue, far, own, optimiser=lbfgs(), progress=False)
    with pytest.warns(UserWarning, match="no update"):
        implicit_diffusion(queue, far, own, steps=9, progress=False)
    assert implicit_diffusion(queue, far, own, steps=10, progress=False).updates == 1
    assert own[0].grad is mine and torch.equal(mine, torch.ones_like(mine)) and own[1].grad is None
