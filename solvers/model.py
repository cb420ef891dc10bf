"""Denoisers: a network, the process it was trained on and what it predicts."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .broadcast import per_sample
from .calling import Calling, Positional, prediction_in
from .diagnosis import USUAL, described_call, diagnosis
from .kinds import check_kind, described, instance
from .labels import Label
from .modules_behind import Behind, Declaring, behind
from .notebook import one_line
from .prediction import DATA, Prediction, conversion
from .process import Process, as_time


class Model(ABC):
    """What a plan evaluates: `model(x, t, cond)` returns its `prediction` for x (B, ...) at times t (B,)."""

    WANTED: ClassVar[str] = "a Denoiser; wrap the network: Denoiser(network, process, prediction)"
    learns_variance: bool = False
    process: Process
    prediction: Prediction

    @abstractmethod
    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """The prediction, in x's shape and dtype."""

    def with_variance(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """The prediction and behind it, along axis 1, what says the variance; of a model that `learns_variance`."""
        raise NotImplementedError

    @abstractmethod
    def parameters(self) -> Iterator[Tensor]:
        """The tensors a gradient can be asked for."""

    def networks(self) -> Iterator[nn.Module]:
        """The modules behind the model."""
        yield from ()

    def __repr__(self) -> str:
        try:
            named = ", ".join(type(network).__name__ for network in self.networks()) or "a function"
            return one_line(f"<{type(self).__name__}: {named}, {self.prediction.name} under {self.process}>")
        except Exception:  # a repr is asked for by debuggers, of what is half built too
            return object.__repr__(self)

    def check_times(self, times: Tensor) -> None:  # noqa: B027  (most can be called at any time)
        """Raise ValueError where it cannot be called at one of `times` (float64, any shape). Before a run."""


class Denoiser(Model):
    """A network, the process it was trained on and what it predicts.

    Args:
        network: any `nn.Module` or callable. What it returns, or the prediction in it (`prediction_in`), has x's
            shape, or for a joint state its nesting, and is cast to the state's dtype.
        process: which noise level a time t stands for.
        prediction: NOISE, DATA, V, FLOW or SCORE.
        dtype: the network's own dtype, when x must be cast before the call (a bf16 network); default: x's. t stays
            in the state's.
        call: how the network is called, (network, x, t, cond) -> output; by default `Positional()`: network(x, t),
            or network(x, t, cond) where cond is given. `Keywords()` passes a dict by name.
        label: what the network is told of t, (t, process) -> labels (B,); by default t itself, (B,) in the state's
            dtype.
        modules: those that `network` uses and that cannot be found behind it: `modules_behind.behind` follows what
            it holds and names, not what it fetches by a computed name.

    Raises:
        TypeError: an argument of another kind. `check(denoiser, x0)` says which prediction and label fit real data.
    """

    def __init__(
        self,
        network: Callable[..., Any],
        process: object,
        prediction: object,
        dtype: torch.dtype | None = None,
        *,
        call: Calling = Positional(),
        label: Callable[[Tensor, Process], Tensor] | None = None,
        modules: Iterable[Any] = (),
    ) -> None:
        check_kind("prediction", prediction, Prediction, "one of NOISE, DATA, V, FLOW, SCORE; import it from "
                   "pullback.solvers")  # fmt: skip
        check_kind("process", process, Process, "a Process such as VP() or RectifiedFlow(); pass the one that the "
                   "network was trained on")  # fmt: skip
        _check_callable("network", network, "network(x, t)")
        _check_callable("call", call, "call(network, x, t, cond) such as Keywords()")
        if label is not None:
            _check_callable("label", label, "label(t, process) such as Scaled(999)")
        check_kind("modules", modules, Iterable, "nn.Modules in a list; pass what `network` calls")
        self.modules = tuple(modules)
        for module in self.modules:
            check_kind("modules", module, nn.Module, "nn.Modules; pass what `network` calls, in a list")
        assert isinstance(process, Process) and isinstance(prediction, Prediction)
        self.network, self.process, self.prediction, self.dtype = network, process, prediction, dtype
        self.call, self.label = call, label

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        out = self._output(self.call, x, t, cond)
        if out.shape != x.shape:
            raise ValueError(_wrong_shape(out, x))
        return out.to(x.dtype)

    def _output(self, call: Calling, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        inner = x if self.dtype is None else x.to(self.dtype)
        told = t if self.label is None else self.label(t, self.process)
        try:
            out = call(self.network, inner, told, cond)
        except USUAL as error:
            self._explain(error, inner, told, cond)
            raise
        return out if isinstance(out, Tensor) else prediction_in(out)

    def around(self, network: Callable[..., Any]) -> "Denoiser":
        """The same with another network."""
        return Denoiser(
            network,
            self.process,
            self.prediction,
            self.dtype,
            call=self.call,
            label=self.label,
            modules=self.modules,
        )

    def check_times(self, times: Tensor) -> None:
        if isinstance(self.label, Label):
            self.label.check(times, self.process)

    def _explain(self, error: Exception, x: Tensor, t: Tensor, cond: Any) -> None:
        """Raise what is wrong with the input where that can be told, else note it on the network's own error."""
        if isinstance(self.network, Declaring):
            return  # it says itself what is wrong
        reason = diagnosis(error, self.network, list(self.networks()), x, t, cond)
        if reason is not None:
            raise ValueError(reason) from error
        error.add_note(f"in the network, called with {described_call(x, t, cond)}")

    def parameters(self) -> Iterator[Tensor]:
        """Those of all modules behind the network, and what it holds as `nn.Parameter` by itself."""
        found = self._behind()
        own = [value for module in found.modules for value in module.parameters()]
        yield from {id(value): value for value in (*own, *found.parameters)}.values()

    def networks(self) -> Iterator[nn.Module]:
        yield from self._behind().modules

    def _behind(self) -> Behind:
        return behind(self.network, self.call, self.label, *self.modules)


def _check_callable(name: str, value: object, form: str) -> None:
    if isinstance(value, type):
        raise TypeError(
            f"{name}: got {described(value)}, expected an instance of it; write {instance(value)}"
        )
    if not callable(value):
        raise TypeError(f"{name}: got {described(value)}, expected a function or module; pass {form}")


def _wrong_shape(out: Tensor, x: Tensor) -> str:
    got = f"network output: got shape {tuple(out.shape)}, expected the state's {tuple(x.shape)}; "
    if out.shape == (1, *x.shape):
        return f"{got}x has no batch axis: pass x[None]"
    if out.ndim == x.ndim and out.shape[1] == 2 * x.shape[1] and out.shape[2:] == x.shape[2:]:
        return f"{got}it has learned variances behind it: pass Denoiser(..., call=FirstChannels())"
    return f"{got}reshape it inside the network, or pass call=lambda network, x, t, cond: ... that does"


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
