"""What a network keeps from call to call, reaches late or lets out: as the plain loop has it, or an error by name."""

import pytest
import torch
from problems import PROCESS
from strategies import ESTIMATES, EXACT, STRATEGIES, close, equal, network, plain, plan_for
from torch import nn

from pullback.adjoint import Checkpoint, Continuous, Direct, Mechanism, Reversible, SkipStraight, sample
from pullback.adjoint.replay.plain_state import plain_state
from pullback.adjoint.replay.transparent import transparent
from pullback.solvers import DATA, FLOW, Denoiser, Evaluate, FlowEuler, RectifiedFlow, UniformT

ALL_EXACT = [*EXACT, Checkpoint(recursive=True), Checkpoint(memory_budget=10**6)]
REPLAYING = [s for s in ALL_EXACT if "Direct" not in str(s)]
REGIONS = [s for s in ALL_EXACT if "REGION" in str(s)]
TAPES = [s for s in REPLAYING if s not in REGIONS]


class Memo(nn.Module):
    """A network that embeds the time anew only where it has changed, or once for each time."""

    def __init__(self, every_time=False):
        super().__init__()
        self.net, self.embed, self.every_time = network(), nn.Linear(1, 3), every_time
        self.kept = {}

    def forward(self, x, t):
        key = float(t[0])
        if key not in self.kept:
            if not self.every_time:
                self.kept.clear()
            self.kept[key] = self.embed(t[:1, None]).tanh()
        return self.net(x, t) + self.kept[key]


def run(net, strategy, x=None, plan=None, **others):
    x = torch.ones(2, 3).requires_grad_() if x is None else x
    return sample(Denoiser(net, PROCESS, DATA), plan or plan_for(strategy), x, gradient=strategy, **others)


def test_which_networks_are_seen_through():
    """Parameters, buffers, modules and flags are declared; a hook, a tensor kept or a function that closes over
    something is not. Calls of what is seen through keep no graph.
    """

    def seen(change=None):
        net = network()
        net.register_buffer("frequencies", torch.ones(3))
        vars(net).update(flag=True, names=["a", {"b": 1}])
        if change:
            change(net)
        model = Denoiser(net, PROCESS, DATA)
        return transparent(model, plain_state(model))

    assert seen()
    assert not seen(lambda net: net.register_forward_hook(lambda *_: None))
    assert not seen(lambda net: setattr(net, "kept", {"a": [torch.ones(1)]}))
    assert not seen(lambda net: setattr(net, "call", lambda: net))
    assert not seen(lambda net: setattr(net, "forward", net.forward))
    assert not transparent(Denoiser(network(), PROCESS, DATA), before={})


@pytest.mark.parametrize("every_time", [False, True])
@pytest.mark.parametrize("strategy", ALL_EXACT, ids=str)
def test_a_memoised_embedding(strategy, every_time):
    """Its weights get the gradient of every call, the last one's too: the memo that it left has a graph."""

    def grads(gradient):
        torch.manual_seed(0)
        net = Memo(every_time)
        loss = run(net, gradient, plan=plan_for(strategy)).square().sum()
        return torch.autograd.grad(loss, list(net.parameters()))

    if strategy in REGIONS:
        with pytest.raises(RuntimeError, match="the network took another path"):
            grads(strategy)
    else:
        close(grads(strategy), grads(plain(strategy)))


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s in ESTIMATES], ids=str)
def test_a_memoised_embedding_under_an_estimate(strategy):
    """The same number as without the memo."""

    def grads(net):
        torch.manual_seed(0)
        net.load_state_dict(net.state_dict() | {k: v * 0 + 0.1 for k, v in net.state_dict().items()})
        return torch.autograd.grad(run(net, strategy).square().sum(), list(net.parameters()))

    class Forgetting(Memo):
        def forward(self, x, t):
            self.kept = {}
            return super().forward(x, t)

    for every_time in (False, True):
        close(grads(Memo(every_time)), grads(Forgetting()))


def test_a_memo_in_a_second_derivative_and_in_skipped_stretches():
    def grads(gradient, twice):
        torch.manual_seed(0)
        net, flow = Memo(True), RectifiedFlow()
        x = torch.ones(2, 3).requires_grad_()
        plan = FlowEuler().plan(flow, UniformT(4, start=0.9, end=0.1))
        wanted = [x, *net.parameters()]
        first = torch.autograd.grad(
            sample(Denoiser(net, flow, FLOW), plan, x, gradient=gradient).square().sum(),
            wanted,
            create_graph=twice,
        )
        if not twice:
            return first
        return torch.autograd.grad(
            torch.stack([g.square().sum() for g in first]).sum(), wanted, allow_unused=True
        )

    equal(grads(SkipStraight(0.0), False), grads(Direct(), False), 1e-11)
    for strategy in (Checkpoint(), Checkpoint(recursive=True)):
        try:
            got = grads(strategy, True)
        except RuntimeError as error:
            assert "took another path" in str(error) or "reach" in str(error)  # noqa: PT017
        else:
            equal(got, grads(Direct(), True), 1e-9)


@pytest.mark.parametrize("strategy", [*TAPES, *(s for s in STRATEGIES if s in ESTIMATES)], ids=str)
def test_a_memo_filled_without_a_graph_in_between_is_named(strategy):
    """A look at the network between the two passes leaves an embedding without a graph behind."""
    net = Memo(every_time=True)
    out = run(net, strategy)
    with torch.no_grad():
        net.kept = {key: value.detach() for key, value in net.kept.items()}
    with pytest.raises(
        RuntimeError, match=r"did not reach parameter embed\.bias, parameter embed\.weight in the backw"
    ):
        out.square().sum().backward()


@pytest.mark.parametrize("strategy", [s for s in ALL_EXACT if "last=3" not in str(s)], ids=str)
def test_a_weight_made_once_for_the_whole_run(strategy):
    """Kept by the first call, with a graph to parameters alone: used, and differentiated, by every call."""

    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(3, 8), nn.Linear(8, 3)
            self.kept = None

        def forward(self, x, t):
            if self.kept is None:
                self.kept = (self.right.weight @ self.left.weight).tanh()
            return (x @ self.kept).sin() * t[:, None]

    def grads(gradient):
        torch.manual_seed(0)
        net = Fused()
        out = run(net, gradient, plan=plan_for(strategy))
        return torch.autograd.grad(out.square().sum(), [net.left.weight, net.right.weight])

    if strategy in REGIONS:
        with pytest.raises(RuntimeError, match="the network took another path"):
            grads(strategy)
    else:
        close(grads(strategy), grads(plain(strategy)))


ASKED = {
    "grad": lambda loss, leaf: torch.autograd.grad(loss, leaf, allow_unused=True)[0],
    "inputs": lambda loss, leaf: loss.backward(inputs=[leaf]) or leaf.grad,
    "backward": lambda loss, leaf: loss.backward() or leaf.grad,
}


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "with another path"])
@pytest.mark.parametrize("ask", ASKED)
@pytest.mark.parametrize("strategy", [*ALL_EXACT, Continuous(), Continuous(2)], ids=str)
def test_a_leaf_of_late_calls_alone(strategy, ask, beside):
    """However its gradient is asked for: right, or an error of the run itself, by its shape."""
    plan = plan_for(strategy)
    last = [op.t for op in plan.instructions if isinstance(op, Evaluate)][-1]

    def grads(gradient):
        late = torch.ones(3, requires_grad=True)
        out = run(lambda x, t: torch.tanh(x) * (late if float(t[0]) == last else 1.0), gradient, plan=plan)
        return [ASKED[ask](out.square().sum() + (late.square().sum() if beside else 0), late)]

    if strategy in REGIONS or "Direct" in str(strategy):
        close(grads(strategy), grads(plain(strategy)))
    else:
        with pytest.raises(
            RuntimeError, match=r"reaches a leaf of shape \(3,\) the first call did not; .*REGION"
        ):
            grads(strategy)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("strategy", REPLAYING, ids=str)
def test_a_captured_tensor_with_a_graph_that_only_a_late_call_reaches(strategy, late):
    """Regions from the start again, with nobody told twice of a step; or refused."""
    plan, told = plan_for(strategy), []
    last = [op.t for op in plan.instructions if isinstance(op, Evaluate)][-1]

    def grads(gradient, callback=None):
        root = torch.ones(3, requires_grad=True)
        grown = root.exp()
        out = run(
            lambda x, t: torch.tanh(x) * (grown if not late or float(t[0]) == last else 1.0), gradient, plan=plan,
            callback=callback,
        )  # fmt: skip
        return torch.autograd.grad(out.square().sum(), root)

    if "Reversible" in str(strategy) or "recursive=True" in str(strategy) or "budget=1" in str(strategy):
        with pytest.raises(ValueError, match="graph of its own"):
            grads(strategy)
    else:
        close(grads(strategy, lambda k, t, x: told.append(k)), grads(plain(strategy)))
        assert told == list(range(plan.steps + 1))


class Caught(nn.Module):
    """A network whose features are caught by a forward hook, as perceptual losses do."""

    def __init__(self):
        super().__init__()
        self.net, self.features = network(), []
        self.net.inner[1].register_forward_hook(lambda module, args, out: self.features.append(out))  # type: ignore

    def forward(self, x, t):
        return self.net(x, t)


@pytest.mark.parametrize("ask", ["backward", "parameters", "x"])
@pytest.mark.parametrize("strategy", [*ALL_EXACT, *(s for s in STRATEGIES if s in ESTIMATES)], ids=str)
def test_features_caught_by_a_forward_hook(strategy, ask):
    """A loss on them is right, or refused: the replays' gradient would miss how the state came to be."""
    plan = plan_for(strategy)

    def grads(gradient):
        torch.manual_seed(0)
        net, x = Caught(), torch.ones(2, 3).requires_grad_()
        out = run(net, gradient, x, plan)
        loss = out.square().sum() + sum(f.square().sum() for f in net.features)
        if ask == "backward":
            loss.backward()
            return [x.grad, *(p.grad for p in net.parameters())]
        return torch.autograd.grad(loss, [x] if ask == "x" else list(net.parameters()), allow_unused=True)

    if strategy in REGIONS or "9, inner=Direct" in str(strategy) or strategy == Direct():
        close(grads(strategy), grads(plain(strategy)))
    elif "last=3" in str(strategy) and ask == "x":
        assert grads(strategy) == (None,)  # truncation has cut it off
    else:
        with pytest.raises(
            RuntimeError, match=r"got a loss on something caught inside the network .*Mechanism.REGION"
        ):
            grads(strategy)


@pytest.mark.parametrize("strategy", REPLAYING, ids=str)
def test_features_that_are_kept_and_not_used(strategy):
    """What a network lets out for a look does no harm."""
    torch.manual_seed(0)
    net, other = Caught(), network()
    other.load_state_dict(net.net.state_dict())
    grads = [
        torch.autograd.grad(run(n, s, plan=plan_for(strategy)).square().sum(), list(n.parameters()))
        for n, s in ((net, strategy), (other, plain(strategy)))
    ]
    close(grads[0], grads[1])


class Reusing(nn.Module):
    """A network that reuses its deep features every other call (as DeepCache)."""

    def __init__(self, of_conditioning=False):
        super().__init__()
        self.first, self.deep, self.last = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.calls, self.kept, self.of_conditioning = 0, torch.zeros(()), of_conditioning

    def forward(self, x, t, cond):
        shallow = self.first(x).tanh()
        if self.calls % 2 == 0:
            self.kept = self.deep(cond if self.of_conditioning else shallow).tanh()
        self.calls += 1
        return self.last(shallow + self.kept)


@pytest.mark.parametrize("of_conditioning", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("strategy", [*REPLAYING, *(s for s in STRATEGIES if s in ESTIMATES)], ids=str)
def test_features_reused_from_call_to_call(strategy, dtype, of_conditioning):
    """An error in either precision, with no advice that would be wrong."""
    torch.manual_seed(0)
    net, x = Reusing(of_conditioning).to(dtype), torch.ones(2, 3, dtype=dtype, requires_grad=True)
    cond = torch.ones(8, dtype=dtype, requires_grad=True)
    with pytest.raises(RuntimeError, match="another call|another output|another path") as error:  # noqa: PT012
        run(net, strategy, x, cond=cond).square().sum().backward()
    assert "Direct()" in str(error.value) and "REGION" not in str(error.value)


def test_a_run_of_one_call_by_regions_after_a_partial_backward_pass():
    """What the first pass replayed is not what a second pass after a change may use."""
    strategy, net = Checkpoint(mechanism=Mechanism.REGION), network()
    x = torch.ones(2, 3, requires_grad=True)
    plan = plan_for(strategy, steps=1)
    assert plan.nfe == 1
    loss = run(net, strategy, x, plan).square().sum()
    torch.autograd.grad(loss, net.inner[2].bias, retain_graph=True)  # type: ignore
    with torch.no_grad():
        net.inner[2].weight.add_(1)  # type: ignore
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


@pytest.mark.parametrize("strategy", REPLAYING, ids=str)
def test_a_buffer_that_a_late_call_writes(strategy):
    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x, t):
            if float(t[0]) < 0.5:
                self.seen += 1
            return self.net(x, t)

    with pytest.raises(RuntimeError, match="buffer seen of the network was changed by the forward pass"):
        run(Late(), strategy)


@pytest.mark.parametrize("strategy", [Checkpoint(), Reversible()], ids=str)
def test_experts_by_time_and_unfrozen_weights(strategy):
    """Declared parameters may differ from call to call; one that was frozen in the forward pass is named."""

    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.early, self.late = network(), network()

        def forward(self, x, t):
            return (self.early if float(t[0]) > 0.5 else self.late)(x, t)

    torch.manual_seed(0)
    net = Experts()
    mine, direct = (
        torch.autograd.grad(run(net, s, plan=plan_for(strategy)).square().sum(), list(net.parameters()))
        for s in (strategy, Direct())
    )
    close(mine, direct)
    net.late.requires_grad_(False)
    out = run(net, strategy)
    net.late.requires_grad_(True)
    with pytest.raises(
        RuntimeError, match=r"parameter late\.inner.*got requires_grad=True in the backward pass"
    ):
        out.square().sum().backward()
