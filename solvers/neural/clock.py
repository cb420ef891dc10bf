"""Clock: the times of an equation that diffuses no data."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..process import Process, as_time
from ..wanted import Finite


@dataclass(frozen=True)
class Clock(Process):
    """Times from t_min to t_max, no more: `Denoiser(network, Clock(0.0, 2.0), FLOW)` is dx/dt = network(x, t).

    `FlowHeun`, `FlowMidpoint` and `FlowAdams` integrate it on `Rising(UniformT(n))` or times of yours, and each
    `DriftMethod` with noise. lambda = -t stands in where a plan wants one; other predictions than FLOW mean nothing.
    """

    t_min: Finite = 0.0
    t_max: Finite = 1.0

    def __post_init__(self) -> None:
        if not self.t_min < self.t_max:
            raise ValueError(f"Clock: got {self.t_min} to {self.t_max}, expected t_min < t_max; swap them")

    def log_alpha(self, t: Tensor | float) -> Tensor:
        return torch.zeros_like(as_time(t))

    def log_sigma(self, t: Tensor | float) -> Tensor:
        return as_time(t).clone()

    def time(self, lam: Tensor | float) -> Tensor:
        return -as_time(lam)

    def check_conversion(self, have: str, want: str) -> None:
        raise ValueError(
            f"{self}: got a {have} network and a plan that asks for {want}, expected FLOW of both: no data are "
            "predicted; take FlowHeun(), FlowMidpoint() or FlowAdams(3)"
        )
