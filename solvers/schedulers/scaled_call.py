"""Networks that are shown c_in x: how their input and output are scaled, as a calling."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..broadcast import per_sample
from ..calling import Calling, Positional, prediction_in
from ..model import Denoiser
from ..prediction import DATA
from ..process import Process
from .clocks import TableLabels


class Scales(ABC):
    """prediction = c_skip x + c_out F(c_in x, label) of a state x = x0 + t eps."""

    @abstractmethod
    def c_in(self, t: Tensor) -> Tensor:
        """The factor on the network's input."""

    @abstractmethod
    def outputs(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(c_skip, c_out)."""


@dataclass(frozen=True)
class UnitInput(Scales):
    """c_in = 1/sqrt(1 + t^2); the answer is the prediction: a variance preserving network of eps or x0."""

    def c_in(self, t: Tensor) -> Tensor:
        return (1 + t**2).rsqrt()

    def outputs(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.ones_like(t)


@dataclass(frozen=True)
class SkipScales(Scales):
    """The data prediction as EDM and consistency models write it:

        c_in = 1/sqrt(t^2 + data^2),  c_skip = data^2/((t - low)^2 + data^2),  c_out = sign (t - low) data c_in

    low = 0 in EDM (Karras et al. 2022, arXiv 2206.00364, table 1); low > 0, where D is x itself, in consistency
    models (Song et al. 2023, arXiv 2303.01469, appendix C). With data = 1 and sign = -1, F is v of the scaled input.
    """

    data: float = 1.0
    sign: float = 1.0
    low: float = 0.0

    def c_in(self, t: Tensor) -> Tensor:
        return (t**2 + self.data**2).rsqrt()

    def outputs(self, t: Tensor) -> tuple[Tensor, Tensor]:
        above = t - self.low
        skip = self.data**2 / (above**2 + self.data**2)
        return skip, self.sign * above * self.data * self.c_in(t)


@dataclass(frozen=True)
class Negated(Scales):
    """The prediction is -F(x, label)."""

    def c_in(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def outputs(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), -torch.ones_like(t)


@dataclass(frozen=True)
class ScaledCall:
    """Calls the network as `scales` say and as `inner` calls it, in `dtype` if that is not x's: x is scaled before it
    is cast and the output after, for c_skip x + c_out F is nearly x where there is little noise.
    """

    scales: Scales
    process: Process
    label: TableLabels
    inner: Calling = Positional()
    dtype: torch.dtype | None = None

    def __call__(self, network: Callable[..., Any], x: Any, t: Tensor, cond: Any) -> Any:
        told, level = self.label.both(t)
        level = level.to(x)
        shown = x * per_sample(self.scales.c_in(level), x)
        if self.dtype is None:
            out = prediction_in(self.inner(network, shown, told, cond))
        else:
            out = Denoiser(network, self.process, DATA, self.dtype, call=self.inner)(shown, told, cond)
        if isinstance(self.scales, UnitInput):
            return out
        skip, gain = self.scales.outputs(level)
        return per_sample(skip, x) * x + per_sample(gain, x) * out
