"""What networks have by themselves: leaves, weights, layers. What they do besides is in habits.py."""

from dataclasses import dataclass

import accelerate
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from .networks import WIDTH, Body, Ingredient, late


def layer(net: Body, ingredient: Ingredient) -> nn.Module:
    return net.parts[type(ingredient).__name__]


@dataclass(frozen=True)
class CapturedLeaf(Ingredient):
    def attach(self, net: Body) -> None:
        net.capture("captured", WIDTH)

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        return h * net.captured["captured"].exp()


@dataclass(frozen=True)
class LateLeaf(Ingredient):
    """A leaf that only late calls use."""

    ordinary = False

    def attach(self, net: Body) -> None:
        net.capture("late", WIDTH)

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        return h + net.captured["late"] if late(t) else h


@dataclass(frozen=True)
class LateExpert(Ingredient):
    """A layer that only late calls use: an expert chosen by time."""

    def attach(self, net: Body) -> None:
        net.parts["LateExpert"] = nn.Linear(WIDTH, WIDTH)

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        return h + layer(net, self)(h) if late(t) else h


@dataclass(frozen=True)
class CapturedGraph(Ingredient):
    """A captured tensor with a graph of its own: a hypernetwork's weight."""

    def attach(self, net: Body) -> None:
        net.own[self] = net.capture("root", WIDTH).sin()

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        return h * (1 + net.own[self])


@dataclass(frozen=True)
class NonLeafWeight(Ingredient):
    """A module whose weight is computed once from another tensor."""

    def attach(self, net: Body) -> None:
        linear = nn.Linear(WIDTH, WIDTH)
        root = net.capture("raw weight", WIDTH, WIDTH)
        del linear.weight
        linear.weight = 0.5 * root  # type: ignore[assignment]
        net.parts["NonLeafWeight"] = linear

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(layer(net, self)(h))


@dataclass(frozen=True)
class SharedWithInput(Ingredient):
    """A parameter of the network that may also be the state or the conditioning of a run."""

    def attach(self, net: Body) -> None:
        net.register_parameter("style", nn.Parameter(torch.randn(WIDTH)))

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        return h + torch.tanh(net.get_parameter("style"))


@dataclass(frozen=True)
class Tied(Ingredient):
    def attach(self, net: Body) -> None:
        first, second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        second.weight = first.weight
        net.parts["Tied"] = nn.Sequential(first, nn.SiLU(), second)

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        return layer(net, self)(h)


@dataclass(frozen=True)
class WeightNorm(Ingredient):
    def attach(self, net: Body) -> None:
        net.parts["WeightNorm"] = parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH))

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        return layer(net, self)(h)


@dataclass(frozen=True)
class SpectralNorm(Ingredient):
    """In train mode each call moves its buffers."""

    ordinary = False

    def attach(self, net: Body) -> None:
        net.parts["SpectralNorm"] = parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH))

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        return layer(net, self)(h)

    def seen(self, net: Body) -> dict[str, Tensor]:
        return {name: value for name, value in layer(net, self).named_buffers() if "_u" in name}


@dataclass(frozen=True)
class SpectralNormAtRest(Ingredient):
    def attach(self, net: Body) -> None:
        net.parts["SpectralNormAtRest"] = parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH)).eval()

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        return layer(net, self)(h)


@dataclass(frozen=True)
class BatchNorm(Ingredient):
    """In train mode: every call writes its running statistics."""

    ordinary = False

    def attach(self, net: Body) -> None:
        net.parts["BatchNorm"] = nn.BatchNorm1d(WIDTH)

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        return layer(net, self)(h) if len(h) > 1 else h

    def seen(self, net: Body) -> dict[str, Tensor]:
        return dict(layer(net, self).named_buffers())


@dataclass(frozen=True)
class BatchNormAtRest(Ingredient):
    def attach(self, net: Body) -> None:
        net.parts["BatchNormAtRest"] = nn.BatchNorm1d(WIDTH).eval()

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        return layer(net, self)(h)


@dataclass(frozen=True)
class Dropout(Ingredient):
    def attach(self, net: Body) -> None:
        net.parts["Dropout"] = nn.Dropout(0.4)

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        return layer(net, self)(h)


@dataclass(frozen=True)
class Attention(Ingredient):
    """An encoder in eval mode with a padding mask: without grad mode torch takes another path."""

    def attach(self, net: Body) -> None:
        block = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        net.parts["Attention"] = nn.TransformerEncoder(block, 1).eval()
        net.parts["spread"], net.parts["gather"] = nn.Linear(WIDTH, 12), nn.Linear(12, WIDTH)

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        if not len(h):
            return h
        tokens = net.parts["spread"](h).reshape(len(h), 3, 4)
        padded = torch.tensor([False, False, True]).expand(len(h), 3)
        out = layer(net, self)(tokens, src_key_padding_mask=padded)
        return h + net.parts["gather"](out.flatten(1))


@dataclass(frozen=True)
class SparseTable(Ingredient):
    """An embedding whose gradient is sparse."""

    def attach(self, net: Body) -> None:
        net.parts["SparseTable"] = nn.Embedding(5, WIDTH, sparse=True)

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        return h + layer(net, self)((t * 5).long().clamp(0, 4))


@dataclass(frozen=True)
class ComplexLeaf(Ingredient):
    def attach(self, net: Body) -> None:
        kind = torch.complex64 if net.dtype == torch.float32 else torch.complex128
        net.captured["complex"] = torch.randn(WIDTH, dtype=kind).requires_grad_()

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        return h + (h * net.captured["complex"]).abs().to(h)


@dataclass(frozen=True)
class Unused(Ingredient):
    """A layer that no call uses."""

    def attach(self, net: Body) -> None:
        net.parts["Unused"] = nn.Linear(2, 2)


@dataclass(frozen=True)
class PlainCheckpoint(Ingredient):
    """Its own activation checkpointing."""

    def attach(self, net: Body) -> None:
        net.parts[type(self).__name__] = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU())

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        out = checkpoint(layer(net, self), h, use_reentrant=False)
        assert isinstance(out, Tensor)
        return out


@dataclass(frozen=True)
class ReentrantCheckpoint(PlainCheckpoint):
    """Its old kind, which torch allows in `backward()` alone."""

    ordinary = False

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        out = checkpoint(layer(net, self), h, use_reentrant=not net.plainly)
        assert isinstance(out, Tensor)
        return out


@dataclass(frozen=True)
class AutocastIsland(Ingredient):
    def attach(self, net: Body) -> None:
        net.parts["AutocastIsland"] = nn.Linear(WIDTH, WIDTH)

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            out = layer(net, self)(h)
        return h + out.to(h)


@dataclass(frozen=True)
class NoGradIsland(Ingredient):
    def attach(self, net: Body) -> None:
        net.parts["NoGradIsland"] = nn.Linear(WIDTH, WIDTH)

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        with torch.no_grad():
            constant = layer(net, self)(h)
        return h + torch.tanh(constant)


@dataclass(frozen=True)
class Energy(Ingredient):
    """A network that differentiates inside."""

    def attach(self, net: Body) -> None:
        net.parts["Energy"] = nn.Linear(WIDTH, WIDTH)

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        outside = torch.is_grad_enabled()
        with torch.enable_grad():
            at = h if h.requires_grad else h.detach().requires_grad_()
            energy = torch.tanh(layer(net, self)(at)).square().sum()
            (force,) = torch.autograd.grad(energy, at, create_graph=outside)
        return h - force


@dataclass(frozen=True)
class Offloaded(Ingredient):
    """A frozen layer whose weights accelerate brings for each call and takes away after it."""

    def attach(self, net: Body) -> None:
        part = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        net.parts["Offloaded"] = part if net.plainly else accelerate.cpu_offload(part, torch.device("cpu"))

    def hidden(self, net: Body, h: Tensor, t: Tensor) -> Tensor:
        return h + torch.tanh(layer(net, self)(h))
