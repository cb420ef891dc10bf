"""Each gradient is taken at detached stand-ins and handed back once, whatever the inputs have to do with each other."""

import functools

import pytest
import torch
from problems import PROCESS
from strategies import EXACT, Inviting, equal, network, plain, plan_for
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from pullback.adjoint import Checkpoint, Direct, Reversible, SkipStraight, sample
from pullback.solvers import DATA, DDIM, FLOW, ClassifierFree, Denoiser, FlowEuler, RectifiedFlow, UniformT

ALL_EXACT = [*EXACT, Checkpoint(recursive=True), Checkpoint(memory_budget=10**6)]


class Tied(nn.Module):
    """Weights with a norm of their own, and one more use of them."""

    def __init__(self):
        super().__init__()
        self.body = network(weight_norm(nn.Linear(8, 8)))

    def forward(self, x, t, cond=None):
        return self.body(x, t) + self.body.inner[2].weight[:3].sum(1)  # type: ignore


def two_runs(run, net, x):
    return run(net, run(net, x))


def a_state_that_is_a_parameter(run, net, x):
    return run(net, net.start) * x


def conditioning_that_is_a_parameter(run, net, x):
    return run(net, x, cond=net.style)


def conditioning_and_controls_from_the_state(run, net, x):
    return run(net, x.exp(), cond=x[0].sin(), controls=torch.stack([0.1 * x * k for k in range(4)]))


def a_scale_from_a_parameter(run, net, x):
    model = ClassifierFree(Denoiser(net, PROCESS, DATA), 1 + (net.raw + net.style[0]).exp())
    return run(net, x, cond=net.style.exp(), model=model)


def a_captured_leaf_that_is_conditioning(run, net, x):
    held = net.style  # declared by nobody: the network is a function
    model = Denoiser(lambda x, t, cond: (x * held + cond.sin()).tanh() * 0.9, PROCESS, DATA)
    return run(net, x, cond=held, model=model)


def a_weight_made_by_another_network(run, net, x):
    made = net.style.outer(net.style).exp() * 0.1
    return run(net, x, model=Denoiser(lambda x, t: (net(x, t) @ made).tanh(), PROCESS, DATA))


def a_parametrised_weight(run, net, x):
    return run(Tied(), x)


PROBLEMS = [
    two_runs, a_state_that_is_a_parameter, conditioning_that_is_a_parameter,
    conditioning_and_controls_from_the_state, a_scale_from_a_parameter, a_captured_leaf_that_is_conditioning,
    a_weight_made_by_another_network, a_parametrised_weight,
]  # fmt: skip


def solved(problem, strategy, plan, order, by=sample):
    """Gradients of the given order at x and at every parameter, of a new network that is always the same."""
    torch.manual_seed(3)
    net, x = Inviting(), torch.randn(2, 3).requires_grad_()
    used = []

    def run(called, x, model=None, **others):
        used.append(called)
        return by(model or Denoiser(called, PROCESS, DATA), plan, x, gradient=strategy, **others)

    out = problem(run, net, x)
    wanted = [x, *used[0].parameters()]
    found = [out.square().sum()]
    for k in range(order):
        last = k == order - 1
        found = torch.autograd.grad(
            torch.stack([(f * f.detach().cos()).sum() for f in found if f is not None]).sum(),
            wanted,
            create_graph=not last,
            allow_unused=True,
        )
    return found


wanted = functools.cache(solved)  # by plain autograd, once for all strategies; without a graph


def by_hand(model, plan, x, gradient, cond=None, controls=None):
    """DDIM on data predictions, written out."""
    for k in range(plan.steps):
        s, t = (torch.tensor(value, dtype=torch.float64) for value in plan.times[k : k + 2])
        x = x if controls is None else x + controls[k]
        data = model(x, s.expand(len(x)), cond)
        eps = (x - PROCESS.alpha(s) * data) / PROCESS.sigma(s)
        x = PROCESS.alpha(t) * data + PROCESS.sigma(t) * eps
    return x


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.__name__)
def test_the_plain_run_is_the_loop(problem, order):
    plan = DDIM().plan(PROCESS, UniformT(4, start=0.9, end=0.05))
    equal(solved(problem, Direct(), plan, order), solved(problem, None, plan, order, by_hand), 1e-10)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.__name__)
@pytest.mark.parametrize("strategy", ALL_EXACT, ids=str)
def test_inputs_that_depend_on_one_another(strategy, problem, order):
    """First and second order, against plain autograd; or a word for what a tape cannot have as its input."""
    plan = plan_for(strategy)
    own_graph = problem in (a_weight_made_by_another_network, a_scale_from_a_parameter)
    if own_graph and "Reversible" in str(strategy):
        with pytest.raises(ValueError, match="graph of its own.*use Checkpoint"):
            solved(problem, strategy, plan, order)
    elif own_graph and ("recursive=True" in str(strategy) or "memory_budget=1" in str(strategy)):
        with pytest.raises(ValueError, match="graph of its own.*memory budget"):
            solved(problem, strategy, plan, order)
    else:
        equal(solved(problem, strategy, plan, order), wanted(problem, plain(strategy), plan, order), 1e-9)


@pytest.mark.parametrize("strategy", [Checkpoint(), Reversible()], ids=str)
def test_a_third_derivative(strategy):
    for problem in (two_runs, conditioning_that_is_a_parameter):
        want = solved(problem, Direct(), plan_for(strategy), 3)
        equal(solved(problem, strategy, plan_for(strategy), 3), want, 1e-8)


def test_skipped_stretches_of_length_one():
    def grads(strategy):
        torch.manual_seed(0)
        net, x = Inviting(), torch.randn(2, 3).requires_grad_()
        plan = FlowEuler().plan(RectifiedFlow(), UniformT(4, start=0.9, end=0.1))
        model = Denoiser(net, RectifiedFlow(), FLOW)
        out = sample(
            model, plan, sample(model, plan, x, gradient=strategy), cond=net.style, gradient=strategy
        )
        first = torch.autograd.grad(
            out.square().sum(), [x, *net.parameters()], create_graph=True, allow_unused=True
        )
        total = torch.stack([g.square().sum() for g in first if g is not None]).sum()
        return [*first, *torch.autograd.grad(total, [x, *net.parameters()], allow_unused=True)]

    equal(grads(SkipStraight(0.0)), grads(Direct()), 1e-9)
