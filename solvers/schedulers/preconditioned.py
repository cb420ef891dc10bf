"""Scaled inputs and outputs of networks whose state is not what they are shown."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..broadcast import per_sample
from ..calling import Calling, Positional, prediction_in
from ..process import Process
from .clocks import TableLabels


@dataclass(frozen=True)
class Preconditioned:
    """How a network stands in D = c_skip x + c_out F(c_in x, label), t the noise level of a state x0 + t eps:

        c_in = 1/sqrt(t^2 + data^2)
        c_skip = data^2/((t - low)^2 + data^2)
        c_out = sign (t - low) data/sqrt(t^2 + data^2)

    `raw`: only the input is scaled, the output is the prediction itself. Of EDM (Karras et al. 2022, arXiv 2206.00364,
    table 1) with low = 0; of consistency models (Song et al. 2023, arXiv 2303.01469, appendix C) with low > 0. With
    data = 1 and sign = -1, F is the velocity v of the scaled input.
    """

    data: float = 1.0
    sign: float = 1.0
    low: float = 0.0
    raw: bool = False

    def c_in(self, t: Tensor) -> Tensor:
        """The factor on the network's input."""
        return (t**2 + self.data**2).rsqrt()

    def outputs(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(c_skip, c_out)."""
        if self.raw:
            return torch.zeros_like(t), torch.ones_like(t)
        above = t - self.low
        skip = self.data**2 / (above**2 + self.data**2)
        return skip, self.sign * above * self.data * self.c_in(t)


@dataclass(frozen=True)
class PreconditionedCall:
    """Calls network(c_in x, label(t)) and returns c_skip x + c_out of its answer. `scales`: a Preconditioned."""

    scales: Preconditioned
    process: Process
    label: TableLabels
    inner: Calling = Positional()

    def __call__(self, network: Callable[..., Any], x: Any, t: Tensor, cond: Any) -> Any:
        told, level = self.label(t, self.process), self.label.level(t).to(x)
        shown = x * per_sample(self.scales.c_in(level), x)
        out = prediction_in(self.inner(network, shown, told, cond))
        if self.scales.raw:
            return out
        skip, gain = self.scales.outputs(level)
        return per_sample(skip, x) * x + per_sample(gain, x) * out
