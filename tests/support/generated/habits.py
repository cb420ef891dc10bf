"""What networks do besides computing: hooks, memory, generators of their own, writing where they should not."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .networks import WIDTH, Body, Ingredient, late


@dataclass(frozen=True)
class ParameterHook(Ingredient):
    """Halves and clamps a parameter's gradient, once a backward pass."""

    def attach(self, net: Body) -> None:
        net.own[self] = 0

        def halve(grad: Tensor) -> Tensor:
            net.own[self] += 1
            return (grad / 2).clamp(-0.05, 0.05)

        net.enter.weight.register_hook(halve)


@dataclass(frozen=True)
class CapturedHook(Ingredient):
    """A hook on a leaf that no module knows of."""

    def attach(self, net: Body) -> None:
        net.capture("hooked", WIDTH).register_hook(lambda grad: grad / 2)

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        return h * (1 + net.captured["hooked"])


@dataclass(frozen=True)
class AccumulateHook(Ingredient):
    """An optimiser's step inside the backward pass: how often it comes is compared."""

    def attach(self, net: Body) -> None:
        net.own[self] = 0

        def step(parameter: Tensor) -> None:
            net.own[self] += 1

        net.leave.bias.register_post_accumulate_grad_hook(step)

    def seen(self, net: Body) -> dict[str, Tensor]:
        return {"steps of the optimiser": torch.tensor(float(net.own[self]))}


@dataclass(frozen=True)
class ActivationHook(Ingredient):
    """Scales the gradient inside a call, in every call."""

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        h = h * 1.0
        if h.requires_grad:
            h.register_hook(lambda grad: grad * 0.7)
        return h


@dataclass(frozen=True)
class ForwardHook(Ingredient):
    """A forward hook with a parameter of its own."""

    def attach(self, net: Body) -> None:
        shift = net.capture("in a hook", WIDTH)

        def moved(module: nn.Module, args: Any, out: Tensor) -> Tensor:
            return out + shift

        net.enter.register_forward_hook(moved)


@dataclass(frozen=True)
class CaughtFeatures(Ingredient):
    """A forward hook keeps features which the loss then uses."""

    ordinary = False

    def attach(self, net: Body) -> None:

        def keep(module: nn.Module, args: Any, out: Tensor) -> None:
            net.kept.append(out)

        net.enter.register_forward_hook(keep)


@dataclass(frozen=True)
class MemoisedTime(Ingredient):
    """A time embedding kept for the last t."""

    ordinary = False

    def attach(self, net: Body) -> None:
        net.parts["MemoisedTime"], net.own[self] = nn.Linear(1, WIDTH), (None, None)

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        key, value = net.own[self]
        if not len(t):
            return h
        if key != float(t[0].detach()) or net.plainly:
            key, value = float(t[0].detach()), net.parts["MemoisedTime"](t[:1, None].to(h))
            net.own[self] = key, value
        assert value is not None
        return h + value


@dataclass(frozen=True)
class MemoisedOnce(Ingredient):
    """Something computed in the first call and kept for the run, as an embedded prompt is."""

    ordinary = False

    def attach(self, net: Body) -> None:
        net.parts["MemoisedOnce"], net.own[self] = nn.Linear(WIDTH, WIDTH), None

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        if net.own[self] is None:
            net.own[self] = torch.tanh(net.parts["MemoisedOnce"](torch.ones(WIDTH).to(h)))
        return h + net.own[self]


@dataclass(frozen=True)
class ReusedFeatures(Ingredient):
    """Every second call, told by its time, reuses the deep features of the one before."""

    ordinary = False

    def attach(self, net: Body) -> None:
        net.parts["ReusedFeatures"], net.own[self] = nn.Linear(WIDTH, WIDTH), None

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        if len(t) and (int(float(t[0].detach()) * 5) % 2 == 0 or net.own[self] is None):
            net.own[self] = 0.1 * torch.tanh(net.parts["ReusedFeatures"](h))
        return h if net.own[self] is None else h + net.own[self]


@dataclass(frozen=True)
class OwnGenerator(Ingredient):
    ordinary = False

    def attach(self, net: Body) -> None:
        net.own[self] = torch.Generator().manual_seed(1)

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        return h + 0.05 * torch.randn(h.shape, generator=net.own[self], dtype=h.dtype)


@dataclass(frozen=True)
class NumpyDropout(Ingredient):
    """A mask from numpy; one sample in a few calls is all that it changes."""

    ordinary = False

    def attach(self, net: Body) -> None:
        net.own[self] = np.random.default_rng(3)

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        return h * torch.from_numpy(net.own[self].random(h.shape) > 0.1).to(h)


@dataclass(frozen=True)
class CountsItsCalls(Ingredient):
    """Python state that enters the output."""

    ordinary = False

    def attach(self, net: Body) -> None:
        net.own[self] = 0

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        net.own[self] += 1
        return h * (1 + 0.01 * net.own[self])


@dataclass(frozen=True)
class WritesItsBuffer(Ingredient):
    """A registered buffer that each call writes and reads."""

    ordinary = False

    def attach(self, net: Body) -> None:
        net.register_buffer("average", torch.zeros(WIDTH))

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        if len(h):
            net.get_buffer("average").mul_(0.9).add_(h.detach().mean(0), alpha=0.1)
        return h + net.get_buffer("average").clone().to(h)

    def seen(self, net: Body) -> dict[str, Tensor]:
        return {"average": net.get_buffer("average")}


@dataclass(frozen=True)
class WritesItsInput(Ingredient):
    """Writes into the state that it is given; the run must go on as if it had not."""

    ordinary = False

    def entering(self, net: Body, x: Tensor) -> Tensor:
        if net.plainly:  # the write has no derivative: as straight through
            return x + (x.clamp(-0.5, 0.5) - x).detach()
        with torch.no_grad():
            return x.clamp_(-0.5, 0.5)


@dataclass(frozen=True)
class ClampsItsOutput(Ingredient):
    def leaving(self, net: Body, out: Tensor) -> Tensor:
        return (out * 1.0).clamp_(-1.5, 1.5)


@dataclass(frozen=True)
class StridedOutput(Ingredient):
    """Not contiguous, and a view of something larger."""

    def leaving(self, net: Body, out: Tensor) -> Tensor:
        return torch.stack([out, -out], -1)[..., 0]


@dataclass(frozen=True)
class OtherPath(Ingredient):
    """Late calls take another path through the same weights."""

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        return torch.sin(h) if late(t) else h


@dataclass(frozen=True)
class SavedElsewhere(Ingredient):
    """Activations that the network keeps elsewhere by hooks of its own."""

    def attach(self, net: Body) -> None:
        net.parts["SavedElsewhere"] = nn.Linear(WIDTH, WIDTH)

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        with torch.autograd.graph.save_on_cpu():
            return torch.tanh(net.parts["SavedElsewhere"](h))


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        return (h * 4).round() / 4

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


@dataclass(frozen=True)
class StraightThrough(Ingredient):
    """Rounds, and passes the gradient on."""

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        smooth = torch.tanh(h)
        return h + 0.1 * _Straight.apply(smooth)  # type: ignore[operator]


@dataclass(frozen=True)
class WatchedVJP(Ingredient):
    """Tells whether its weight's VJP was made: a hook on what lies between the weight and the call."""

    def attach(self, net: Body) -> None:
        net.capture("watched", WIDTH)
        net.own[self] = 0

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        weight = 1.0 * net.captured["watched"]

        def count(grad: Tensor) -> None:
            net.own[self] += 1

        if weight.requires_grad:
            weight.register_hook(count)
        return h * weight

    def seen(self, net: Body) -> dict[str, Tensor]:
        return {"whether a weight's VJP was made": torch.tensor(float(net.own[self] > 0))}
