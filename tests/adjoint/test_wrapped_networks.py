"""What stands around a network, or hides it: found, right as in a plain loop, or refused by name."""

import dataclasses
import functools
import gc
import threading
import types
import weakref
from typing import Any

import pytest
import torch
from problems import PROCESS
from strategies import EXACT, REPLAYING, close, equal, network, plain, plan_for
from torch import nn
from torch.utils.checkpoint import checkpoint

from pullback.adjoint import Checkpoint, Direct, Gradient, Mechanism, PerStep, Reversible, sample
from pullback.solvers import DATA, DDIM, Denoiser, UniformT
from pullback.solvers.modules_behind import LIMIT, behind

REGION = Checkpoint(mechanism=Mechanism.REGION)
ONE_CALL = DDIM().plan(PROCESS, UniformT(1, start=0.9, end=0.5))
REGISTRY: dict[str, nn.Module] = {}


class Holder:
    """An object with a network that is used and one that is not."""

    def __init__(self, used, unused):
        self.unet, self.critic, self.itself = used, unused, self

    def predict(self, x, t):
        return self.unet(x, t)

    @property
    def inner(self):
        return self.unet


class Called:
    def __init__(self, net):
        self.nets = {"unet": [net]}

    def __call__(self, x, t):
        return self.nets["unet"][0](x, t)


class Slotted:
    __slots__ = ("unet", "critic")

    def __init__(self, used, unused):
        self.unet, self.critic = used, unused

    def __call__(self, x, t):
        return self.unet(x, t)


@dataclasses.dataclass(frozen=True)
class Frozen:
    unet: nn.Module

    def __call__(self, x, t):
        return self.unet(x, t)


class Hides(nn.Module):
    """A network in a plain list, which `modules()` does not name."""

    def __init__(self, net):
        super().__init__()
        self.inner = [net]

    def forward(self, x, t):
        return self.inner[0](x, t)


def _wrapped(fn):
    @functools.wraps(fn)
    def inner(*args):
        return fn(*args)

    return inner


def _through(net, critic):
    """Every way to hide `net`, by name."""
    holder, space, nested = (
        Holder(net, critic),
        types.SimpleNamespace(unet=net, critic=critic),
        {"a": [(net,)]},
    )
    seen, reference = [0.0] * LIMIT * 2, weakref.ref(net)
    return {
        "attribute": lambda x, t: holder.unet(x, t),
        "method in a lambda": lambda x, t: holder.predict(x, t),
        "property": lambda x, t: holder.inner(x, t),
        "getattr": lambda x, t: getattr(holder, "unet")(x, t),  # noqa: B009
        "bound method": holder.predict,
        "namespace": lambda x, t: space.unet(x, t),
        "nested dict": lambda x, t: nested["a"][0][0](x, t),
        "object with a dict": Called(net),
        "slots": Slotted(net, critic),
        "dataclass": Frozen(net),
        "partial": functools.partial(lambda held, x, t: held["net"](x, t), {"net": net}),
        "wraps": _wrapped(holder.predict),
        "decorated": torch.no_grad()(holder.predict),
        "default": lambda x, t, held=(net,): held[0](x, t),
        "weak reference": lambda x, t: reference()(x, t),  # type: ignore[misc]
        "a long list of numbers": lambda x, t, held=[*seen, net]: held[-1](x, t),  # noqa: B006
        "hidden in a module": Hides(net),
    }


WAYS = list(_through(nn.Identity(), nn.Identity()))


@pytest.mark.parametrize("way", WAYS)
def test_modules_are_found_and_unused_ones_are_not(way):
    net, critic = network(), network()
    model = Denoiser(_through(net, critic)[way], PROCESS, DATA)
    assert net in list(model.networks()) and critic not in list(model.networks())
    assert {id(p) for p in net.parameters()} == {id(p) for p in model.parameters()}


def test_a_local_variable_names_no_attribute():
    net, unused = network(), network()
    holder = Holder(net, unused)

    def call(x, t):
        critic = holder.unet(x, t)
        return critic

    assert behind(call).modules == (net,)


def test_what_cannot_be_found_is_declared():
    net = REGISTRY["computed"] = network()
    name = "".join(["REGI", "STRY"])
    model = Denoiser(lambda x, t: globals()[name]["computed"](x, t), PROCESS, DATA)
    assert not list(model.networks())
    declared = Denoiser(model.network, PROCESS, DATA, modules=[net])
    assert list(declared.networks()) == [net] and len(list(declared.parameters())) == 4
    with pytest.raises(TypeError, match="modules: got 'net', expected nn.Modules"):
        Denoiser(model.network, PROCESS, DATA, modules=["net"])


def test_a_parameter_by_itself_is_found_and_the_walk_ends():
    weight, cycle = nn.Parameter(torch.eye(3)), []
    cycle.append([cycle, {"w": weight}])
    model = Denoiser(lambda x, t: x @ cycle[0][1]["w"], PROCESS, DATA)
    assert [p is weight for p in model.parameters()] == [True]
    with pytest.warns(UserWarning, match="declare them by Denoiser"):
        behind([[] for _ in range(LIMIT + 1)])


@pytest.mark.parametrize("way", ["attribute", "object with a dict", "hidden in a module"])
@pytest.mark.parametrize("plan", [ONE_CALL, None], ids=["one call", "four calls"])
@pytest.mark.parametrize(
    "middle",
    [lambda: nn.BatchNorm1d(8), lambda: nn.utils.spectral_norm(nn.Linear(8, 8))],
    ids=["batch norm", "spectral norm"],
)
@pytest.mark.parametrize("strategy", [Checkpoint(), REGION, Reversible()], ids=str)
def test_written_buffers_are_refused(strategy, middle, plan, way):
    """Running statistics would be updated twice: also behind an object, also where one call is all there is."""
    if plan is not None and isinstance(strategy, Reversible):
        plan = plan_for(strategy, 1)
    net = network(middle())
    model = Denoiser(_through(net, network())[way], PROCESS, DATA)
    with pytest.raises(
        RuntimeError, match="buffer .* was changed by the (forward|backward) pass|gave another output"
    ):
        x = torch.randn(4, 3, requires_grad=True)
        sample(model, plan or plan_for(strategy), x, gradient=strategy).sum().backward()


def _compared(net, strategy, again=None, **inputs):
    """Gradients of a strategy and of a plain loop at x and all parameters."""
    found = []
    for gradient in (strategy, plain(strategy)):
        x = (
            inputs.get("x", torch.randn(2, 3, generator=torch.Generator().manual_seed(1)))
            .clone()
            .requires_grad_()
        )
        model = Denoiser(again or net, PROCESS, DATA)
        rest = {name: value for name, value in inputs.items() if name != "x"}
        out = sample(model, plan_for(strategy), x, gradient=gradient, **rest)
        wanted = [
            *([x] if "3" not in str(strategy) else []),
            *(p for p in net.parameters() if p.requires_grad),
        ]
        if strategy in EXACT and wanted:
            found.append(torch.autograd.grad(out.square().sum(), wanted, allow_unused=True))
    if found:
        close(*found)


@pytest.mark.parametrize("strategy", REPLAYING, ids=str)
def test_grad_switched_off_before_backward_is_named(strategy):
    net = network()
    out = sample(Denoiser(net, PROCESS, DATA), plan_for(strategy), torch.ones(2, 3), gradient=strategy)
    net.requires_grad_(False)
    with pytest.raises(RuntimeError, match="got requires_grad=False in the backward pass, expected True"):
        out.sum().backward()


class Reentrant(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=True)


@pytest.mark.parametrize("strategy", EXACT, ids=str)
def test_reentrant_checkpoints_are_right_or_named(strategy):
    """They cannot be differentiated by autograd.grad: by regions, or refused before the run."""
    net, found = network(Reentrant(nn.Sequential(nn.Linear(8, 8), nn.Tanh()))), []
    for gradient in (strategy, plain(strategy)):
        net.zero_grad()
        x = torch.full((2, 3), 0.5, requires_grad=True)
        run = functools.partial(
            sample, Denoiser(net, PROCESS, DATA), plan_for(strategy), x, gradient=gradient
        )
        if "Reversible" in str(gradient):
            with pytest.raises(ValueError, match="got torch.utils.checkpoint with use_reentrant=True"):
                run()
            return
        run().square().sum().backward()
        found.append([x.grad, *(p.grad for p in net.parameters())])
    close(*found)


class Attends(nn.Module):
    """Three tokens, of which the mask hides the last: what torch's fast path leaves zero."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2)

    def forward(self, x, t):
        mask = torch.zeros(x.shape[:2], dtype=torch.bool)
        mask[:, -1] = True
        return self.body(x, src_key_padding_mask=mask)


@pytest.mark.parametrize("strategy", [s for s in EXACT if "3" not in str(s)], ids=str)
@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")
def test_attention_takes_one_path_with_and_without_gradients(strategy):
    """Against a loop with a graph."""
    net, plan, x = Attends().eval(), plan_for(strategy), torch.randn(2, 3, 4)
    found = []
    for gradient in (strategy, Direct()):
        start = x.clone().requires_grad_()
        out = sample(Denoiser(net, PROCESS, DATA), plan, start, gradient=gradient)
        found.append([out, *torch.autograd.grad(out.square().sum(), [start, *net.parameters()])])
    found.append([sample(Denoiser(net, PROCESS, DATA), plan, x, gradient=None)])
    close(*found[:2])
    close(found[2], found[1][:1])
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("strategy", EXACT, ids=str)
def test_inputs_made_under_inference_mode(strategy):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x, t, cond):
            return self.net(x, t) * cond["a"] + cond["b"]

    with torch.inference_mode():
        x, cond = torch.full((2, 3), 0.3), {"a": torch.full((3,), 0.7), "b": PerStep(torch.ones(4, 3))}
        controls = torch.full((4, 2, 3), 0.1)
    net, found = Scaled(), []
    for gradient in (strategy, plain(strategy)):
        out = sample(
            Denoiser(net, PROCESS, DATA),
            plan_for(strategy),
            x,
            cond=cond,
            controls=controls,
            gradient=gradient,
        )
        found.append(torch.autograd.grad(out.square().sum(), list(net.parameters())))
    close(*found)


@pytest.mark.parametrize("strategy", [*REPLAYING, Direct()], ids=str)
def test_grad_mode_off_is_said(strategy):
    with torch.no_grad(), pytest.raises(ValueError, match="got a call under torch.no_grad"):
        sample(Denoiser(network(), PROCESS, DATA), plan_for(strategy), torch.ones(2, 3), gradient=strategy)


class Casting(nn.Linear):
    """Weights that hooks bring in another precision for each call, as layerwise casting does."""

    def __init__(self):
        super().__init__(8, 8)
        self.requires_grad_(False).float()
        self.register_forward_pre_hook(lambda module, args: module.double() and None)
        self.register_forward_hook(lambda module, args, out: module.float() and None)


def casting_in_forward():
    """The same by a `forward` put in the place of the class's, and no hook."""
    layer = nn.Linear(8, 8).requires_grad_(False).float()
    plain = layer.forward

    def forward(x):
        layer.double()
        out = plain(x)
        layer.float()
        return out

    layer.forward = forward  # type: ignore[method-assign, assignment]
    return layer


@pytest.mark.parametrize("plan", [ONE_CALL, None], ids=["one call", "four calls"])
@pytest.mark.parametrize("strategy", [Checkpoint(), REGION], ids=str)
@pytest.mark.parametrize("kind", ["offload", "offload, trained", "casting", "casting in forward"])
def test_hooks_that_move_weights_are_no_false_alarm(kind, strategy, plan):
    """accelerate's sequential offload, and layerwise casting; two backward passes."""
    middle = {"casting": Casting, "casting in forward": casting_in_forward}.get(kind, lambda: nn.Linear(8, 8))
    net = network(middle()).requires_grad_("trained" in kind)
    grads, start = [], torch.full((2, 3), 0.3)
    model = Denoiser(net, PROCESS, DATA)
    for gradient in (Direct(), strategy):
        if "offload" in kind and gradient is strategy:
            accelerate = pytest.importorskip("accelerate")
            accelerate.cpu_offload(net, torch.device("cpu"))
        x = start.clone().requires_grad_()
        out = sample(model, plan or plan_for(strategy), x, gradient=gradient).square().sum()
        grads += [torch.autograd.grad(out, [x], retain_graph=True), torch.autograd.grad(out, [x])]
    for got in grads[1:]:
        close(got, grads[0])


@pytest.mark.parametrize("strategy", [Checkpoint(), REGION, Checkpoint(recursive=True)], ids=str)
def test_threads_do_not_share_a_generator(strategy):
    """D x = x times a random mask: the sample is linear in x, so x . dL/dx = L for whatever was drawn."""
    wrong: list[object] = []

    def work():
        try:
            for _ in range(8):
                x = torch.full((2, 64), 0.5, requires_grad=True)  # a draw here would be another's in a call
                model = Denoiser(lambda x, t: nn.functional.dropout(x, 0.3), PROCESS, DATA)
                total = sample(model, plan_for(strategy, 6), x, gradient=strategy).sum()
                (grad,) = torch.autograd.grad(total, x)
                if not torch.allclose((x * grad).sum(), total):
                    wrong.append("another mask")
        except RuntimeError as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_run_inside_a_network_call_keeps_its_turn():
    """A random network that samples inside its call: the lock is not taken twice, nor kept."""

    def inner(x, t):
        with torch.enable_grad():
            y = x.detach().requires_grad_()
            out = sample(Denoiser(lambda a, s: nn.functional.dropout(a, 0.3), PROCESS, DATA), ONE_CALL, y)
            return x + torch.autograd.grad(out.sum(), y)[0]

    x = torch.rand(2, 3, requires_grad=True)
    sample(Denoiser(inner, PROCESS, DATA), plan_for(Checkpoint()), x).sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()


def test_a_graph_of_another_thread_is_seen():
    """Autograd numbers nodes by thread: a captured graph of the main one is not taken for the call's own."""
    scale = torch.full((3,), 0.5, requires_grad=True)
    for _ in range(50):
        torch.zeros(1, requires_grad=True).exp()
    history, found = scale.exp(), {}

    def work(gradient: Gradient):
        x = torch.ones(2, 3, requires_grad=True)
        out = sample(
            Denoiser(lambda x, t: x * history, PROCESS, DATA), plan_for(gradient), x, gradient=gradient
        )
        found[gradient] = torch.autograd.grad(out.sum(), [x, scale], retain_graph=True)

    for gradient in (Checkpoint(), Direct()):
        thread = threading.Thread(target=work, args=(gradient,))
        thread.start()
        thread.join()
    close(found[Checkpoint()], found[Direct()])
    gc.collect()


def test_peft_behind_an_object_is_named():
    peft = pytest.importorskip("peft")
    net = peft.get_peft_model(network(), peft.LoraConfig(target_modules=["inner.0"]))
    holder = Holder(net, network())
    out = sample(
        Denoiser(lambda x, t: holder.unet(x, t), PROCESS, DATA), plan_for(Checkpoint()), torch.ones(2, 3)
    )
    with (
        net.disable_adapter(),
        pytest.raises(RuntimeError, match=r"had (_\w+|merged_adapters)=|requires_grad"),
    ):
        out.sum().backward()
    net.add_adapter("other", peft.LoraConfig(target_modules=["inner.0"]))
    out = sample(
        Denoiser(lambda x, t: holder.unet(x, t), PROCESS, DATA), plan_for(Checkpoint()), torch.ones(2, 3)
    )
    net.set_adapter("other")
    with pytest.raises(RuntimeError, match=r"had (_\w+|merged_adapters)=|requires_grad"):
        out.sum().backward()


class Training(nn.Module):
    """A network and a critic in batch mode, as a LightningModule has them."""

    def __init__(self):
        super().__init__()
        self.unet, self.critic = network(), nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x, t):
        return self.predict(x, t)

    def predict(self, x, t):
        return self.scale() * self.unet(x, t)

    def scale(self):
        return self.gain.exp()


TAKEN = {
    "attribute": (lambda s: lambda x, t: s.unet(x, t), {"unet"}),
    "method": (lambda s: s.predict, {"unet", "gain"}),
    "method in a lambda": (lambda s: lambda x, t: s.predict(x, t), {"unet", "gain"}),
    "itself": (lambda s: lambda x, t: s(x, t), {"unet", "gain", "critic"}),
    "forward": (lambda s: s.forward, {"unet", "gain"}),
    "passed on": (lambda s: lambda x, t: (lambda m: m.unet)(s)(x, t), {"unet", "gain", "critic"}),
    "by a computed name": (lambda s: lambda x, t: getattr(s, "un" + "et")(x, t), {"unet", "gain", "critic"}),
}


@pytest.mark.parametrize("way", TAKEN)
def test_of_a_module_that_holds_more_only_what_code_names(way):
    torch.manual_seed(0)
    trained, (wrap, parts) = Training(), TAKEN[way]
    model = Denoiser(wrap(trained), PROCESS, DATA)
    wanted = {id(p) for name, p in trained.named_parameters() if name.partition(".")[0] in parts}
    assert {id(value) for value in model.parameters()} == wanted
    if "critic" not in parts:
        out = sample(model, plan_for(Checkpoint()), torch.ones(2, 3).requires_grad_(), gradient=Checkpoint())
        trained.critic(out).sum().backward()
        assert all(p.grad is not None for p in trained.unet.parameters())


@pytest.mark.parametrize("strategy", REPLAYING, ids=str)
def test_a_torchscript_network(strategy):
    """Compiled anew after its first calls: values and gradients stay."""
    torch.manual_seed(0)
    eager = network()
    traced: Any = torch.jit.trace(eager, (torch.ones(2, 3), torch.ones(2)))
    for _ in range(3):
        grads = []
        for net, gradient in ((eager, plain(strategy)), (traced, strategy)):
            x = torch.ones(2, 3).requires_grad_()
            out = sample(Denoiser(net, PROCESS, DATA), plan_for(strategy), x, gradient=gradient)
            grads.append(torch.autograd.grad(out.square().sum(), [x, *net.parameters()], allow_unused=True))
        if strategy in EXACT:
            equal(grads[0], grads[1], 1e-9)


@pytest.mark.parametrize("strategy", REPLAYING, ids=str)
def test_a_buffer_made_anew_with_the_same_numbers(strategy):
    """No false alarm; with other numbers it is named."""

    class Frequencies(nn.Module):
        def __init__(self, step):
            super().__init__()
            self.net, self.step = network(), step
            self.register_buffer("freqs", torch.ones(3))

        def forward(self, x, t):
            self.freqs = self.freqs + self.step
            return self.net(x, t) * self.freqs

    torch.manual_seed(0)
    net, plan = Frequencies(0), plan_for(strategy)
    torch.manual_seed(0)
    kept = Frequencies(0)
    kept.forward = lambda x, t: kept.net(x, t) * kept.freqs
    grads = []
    for each in (net, kept):
        x = torch.ones(2, 3).requires_grad_()
        out = sample(Denoiser(each, PROCESS, DATA), plan, x, gradient=strategy)
        grads.append(torch.autograd.grad(out.square().sum(), [x, *each.parameters()], allow_unused=True))
    equal(grads[0], grads[1], 1e-11)
    x = torch.ones(2, 3).requires_grad_()
    with pytest.raises(RuntimeError, match="buffer freqs of the network was changed"):
        sample(Denoiser(Frequencies(1), PROCESS, DATA), plan, x, gradient=strategy).square().sum().backward()


def test_the_mode_of_the_whole_network_is_named_in_words():
    net, x = network(), torch.ones(2, 3).requires_grad_()
    out = sample(Denoiser(net, PROCESS, DATA), plan_for(Checkpoint()), x, gradient=Checkpoint())
    net.eval()
    with pytest.raises(RuntimeError, match="the network had training=True in the forward pass, got False"):
        out.sum().backward()


# a truncated run initialises them in the steps that it does not differentiate
@pytest.mark.parametrize("strategy", [s for s in REPLAYING if "last=3" not in str(s)], ids=str)
def test_lazy_layers_are_named_until_they_have_been_called(strategy):
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.LazyLinear(3)

        def forward(self, x, t):
            return self.layer(x).sin() * t[:, None]

    net, x = Lazy(), torch.ones(2, 3).requires_grad_()
    with pytest.raises(
        ValueError, match=r"parameter layer\.weight of the network: got it without a shape .* call"
    ):
        sample(Denoiser(net, PROCESS, DATA), plan_for(strategy), x, gradient=strategy)
    net(x, torch.ones(2))
    sample(Denoiser(net, PROCESS, DATA), plan_for(strategy), x, gradient=strategy).sum().backward()


@pytest.mark.parametrize("strategy", [None, Direct(), *REPLAYING], ids=str)
def test_times_written_to_in_place_are_named(strategy):
    def net(x, t):
        return x * t.mul_(1000)[:, None]

    x = torch.ones(2, 3).requires_grad_()
    with pytest.raises(RuntimeError, match=r"in place.*, expected|, expected.*in place"):
        sample(Denoiser(net, PROCESS, DATA), plan_for(strategy or Direct()), x, gradient=strategy)
