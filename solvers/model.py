"""Denoisers: a network, the process it was trained on and what it predicts."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from .broadcast import per_sample
from .prediction import DATA, Prediction, conversion
from .process import Process, as_time


class Model(ABC):
    """What a plan evaluates: `model(x, t, cond)` returns its `prediction` for x (B, ...) at times t (B,)."""

    process: Process
    prediction: Prediction

    @abstractmethod
    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """The prediction, in x's shape and dtype."""

    @abstractmethod
    def parameters(self) -> Iterator[Tensor]:
        """The tensors a gradient can be asked for."""

    def networks(self) -> Iterator[nn.Module]:
        """The modules behind the model."""
        yield from ()


class Denoiser(Model):
    """Wraps any `nn.Module` or callable `network(x, t)` or, where cond is given, `network(x, t, cond)`.

    Args:
        network: returns a tensor of x's shape, or for a joint state the same nesting. Its output is cast to the
            state's dtype.
        process: whose time t the network expects, as a (B,) tensor in the state's dtype.
        prediction: NOISE, DATA, V, FLOW or SCORE.
        dtype: the network's own dtype, when x must be cast before the call (a bf16 network); default: x's.
    """

    def __init__(
        self,
        network: Callable[..., Any],
        process: object,
        prediction: object,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not isinstance(prediction, Prediction):
            raise TypeError(
                f"prediction: got {prediction!r}, expected one of NOISE, DATA, V, FLOW, SCORE; import it "
                "from pullback.solvers"
            )
        if not isinstance(process, Process):
            raise TypeError(f"process: got {process!r}, expected a Process such as VP() or RectifiedFlow()")
        self.network, self.process, self.prediction, self.dtype = network, process, prediction, dtype

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        inner = x if self.dtype is None else x.to(self.dtype)
        out = self.network(inner, t) if cond is None else self.network(inner, t, cond)
        if out.shape != x.shape:
            raise ValueError(
                f"network output: got shape {tuple(out.shape)}, expected the state's {tuple(x.shape)}; "
                "slice off learned variances or wrap the network"
            )
        return out.to(x.dtype)

    def parameters(self) -> Iterator[Tensor]:
        if isinstance(self.network, nn.Module):
            yield from self.network.parameters()

    def networks(self) -> Iterator[nn.Module]:
        yield from {id(module): module for module in _behind(self.network)}.values()


def _behind(thing: Any, depth: int = 3) -> Iterator[nn.Module]:
    """The modules that a callable holds: itself, or what its closure, defaults, globals, object or arguments
    lead to.
    """
    if isinstance(thing, nn.Module):
        yield thing
    elif depth:
        for value in _held(thing):
            yield from _behind(value, depth - 1)


def _held(thing: Any) -> list[Any]:
    if isinstance(thing, FunctionType):
        names = thing.__globals__
        cells = [cell.cell_contents for cell in thing.__closure__ or () if cell != CellType()]
        return [
            *cells,
            *(thing.__defaults__ or ()),
            *(names[name] for name in thing.__code__.co_names if name in names),
        ]
    if isinstance(thing, MethodType):
        return [thing.__self__, *getattr(thing.__self__, "__dict__", {}).values()]
    if isinstance(thing, partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    return (
        list(getattr(thing, "__dict__", {}).values())
        if callable(thing) and not isinstance(thing, type)
        else []
    )


class ClassifierFree(Model):
    """out = null + scale (cond - null). Source: Ho and Salimans 2022, arXiv 2207.12598, eq. 6 with scale = w + 1.

    Args:
        denoiser: called twice, with `cond` and with `null`.
        scale: guidance scale; 1 is conditional sampling, 0 unconditional; a tensor, () or one for each sample (B,),
            receives its gradient.
        null: the unconditional conditioning.

    Cost: two network calls per evaluation.
    """

    def __init__(self, denoiser: Model, scale: float | Tensor, null: Any = None) -> None:
        self.denoiser, self.scale, self.null = denoiser, scale, null
        self.process, self.prediction = denoiser.process, denoiser.prediction

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        null = self.denoiser(x, t, self.null)
        scale = self.scale
        if isinstance(scale, Tensor) and scale.ndim == 1:  # by itself (B,) would broadcast over the last axis
            scale = per_sample(scale.to(x), x)
        return null + scale * (self.denoiser(x, t, cond) - null)

    def parameters(self) -> Iterator[Tensor]:
        yield from self.denoiser.parameters()
        if isinstance(self.scale, Tensor):
            yield self.scale

    def networks(self) -> Iterator[nn.Module]:
        yield from self.denoiser.networks()


def data_prediction(
    model: Model, x: Tensor, time: float | tuple[float, ...] | Tensor, cond: Any = None
) -> Tensor:
    """D(x, t) = a x + b model(x, t), (B, ...), of a model of any prediction; `time` is one for all or (B,)."""
    t = as_time(time)
    out = model(x, t.to(x).reshape(-1).expand(len(x)), cond)
    if model.prediction == DATA:
        return out
    a, b = conversion(model.prediction, DATA, model.process, t)
    return per_sample(a.to(x), x) * x + per_sample(b.to(x), x) * out
