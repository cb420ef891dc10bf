"""Denoisers: a network, the process it was trained on and what it predicts."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .broadcast import per_sample
from .modules_behind import behind
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
        network: returns a tensor of x's shape. Its output is cast to the state's dtype.
        process: whose time t the network expects, as a (B,) tensor in the state's dtype.
        prediction: NOISE, DATA, V, FLOW or SCORE.
        dtype: the network's own dtype, when x must be cast before the call (a bf16 network); default: x's.
        modules: those that `network` uses and that cannot be found behind it: `modules_behind.behind` follows what
            it holds and names, not what it fetches by a computed name.
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        process: object,
        prediction: object,
        dtype: torch.dtype | None = None,
        modules: Iterable[Any] = (),
    ) -> None:
        if not isinstance(prediction, Prediction):
            raise TypeError(
                f"prediction: got {prediction!r}, expected one of NOISE, DATA, V, FLOW, SCORE; import it "
                "from pullback.solvers"
            )
        if not isinstance(process, Process):
            raise TypeError(f"process: got {process!r}, expected a Process such as VP() or RectifiedFlow()")
        self.modules = tuple(modules)
        wrong = [each for each in self.modules if not isinstance(each, nn.Module)]
        if wrong:
            raise TypeError(
                f"modules: got a {type(wrong[0]).__name__}, expected nn.Modules; pass what `network` calls, in a list"
            )
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
        """Those of all modules behind the network, and what it holds as `nn.Parameter` by itself."""
        found = behind(self.network, *self.modules)
        own = [value for module in found.modules for value in module.parameters()]
        yield from {id(value): value for value in (*own, *found.parameters)}.values()

    def networks(self) -> Iterator[nn.Module]:
        yield from behind(self.network, *self.modules).modules


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
