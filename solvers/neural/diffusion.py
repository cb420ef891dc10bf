"""A drift and a diffusion of one's own, as what a plan evaluates."""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..compiler import Builder, Method
from ..grid import Times, checked_times
from ..instructions import Combine
from ..kinds import check_kind, described
from ..linear_map import Mixing
from ..plan import Plan, stack
from ..prediction import FLOW
from .clock import Clock


@dataclass(frozen=True)
class DriftDiffusion:
    """dx = f(x, t) dt + g(x, t) dw with diagonal noise: a network of (x, dw) for `DriftMethod`s.

        clock, field = Clock(0.0, 1.0), DriftDiffusion(lambda x, t: (net(x, t), 0.1 * x))
        plan = StratonovichHeun().plan(clock, Rising(UniformT(50)))
        z = sample(Denoiser(field, clock, FLOW), plan, field.start(x0), noise=Addressed(seed))
        x1 = field.state(z)

    A step's increment of the Brownian motion enters the call beside x: from (x, dw) comes (f, g dw). The product of two
    things that depend on x is thus inside the network call, a plan around it stays linear, and every strategy, inverse
    and replay of noise is what it is for denoisers. States are (B, 2 C, ...), the second half 0 between calls.

    Args:
        field: (x, t) or (x, t, cond) -> (f, g), each (B, C, ...) or broadcasting to it.
    """

    field: Callable[..., tuple[Any, Any]]

    def __call__(self, z: Tensor, t: Tensor, *cond: Any) -> Tensor:
        x, dw = z.chunk(2, 1)
        found = self.field(x, t, *cond)
        if (
            not isinstance(found, tuple | list) or len(found) != 2
        ):  # a tensor of two samples would fall in two
            raise ValueError(
                f"DriftDiffusion: got {described(found)} of the field, expected a pair (f, g); return drift, diffusion"
            )
        drift, diffusion = found
        return torch.cat([drift + torch.zeros_like(x), diffusion * dw], 1)

    @staticmethod
    def start(x: Tensor) -> Tensor:
        """The state of a plan from x, (B, C, ...) -> (B, 2 C, ...)."""
        return torch.cat([x, torch.zeros_like(x)], 1)

    @staticmethod
    def state(z: Tensor) -> Tensor:
        """x of a plan's state."""
        return z.chunk(2, 1)[0]


X_ALONE = Mixing([[1.0, 0.0], [0.0, 0.0]])  # (x, 0)


def increment(h: float, share: float = 1.0) -> Mixing:
    """(f, g dw) -> share (f h + g dw, 0)."""
    return Mixing([[share * h, share], [0.0, 0.0]])


class DriftMethod(Method):
    """A method for `DriftDiffusion` on a `Clock`. Times may rise or fall; noise slot k is that of the increment of step
    k, dw = sqrt(|h|) xi.
    """

    stochastic = True

    @abstractmethod
    def move(self, b: Builder, i: int, h: float) -> None:
        """Emit step i of signed length h."""

    def step(self, b: Builder, i: int) -> None:
        self.move(b, i, b.t[i + 1] - b.t[i])

    def plan(self, process: Any, grid: Times) -> Plan:
        return self.along(process, grid)

    def along(self, process: Any, grid: Times) -> Plan:
        check_kind(
            "process", process, Clock, f"a Clock for {self}, such as Clock(0.0, 1.0); pass the denoiser's"
        )
        times = checked_times(grid, process)
        if times.ndim == 2:
            return stack([self._compile(process, column) for column in times.T])
        return self._compile(process, times)


def evaluated(b: Builder, out: str, t: float, src: str, steps: tuple[int, ...]) -> str:
    """out <- (f, g dw) at register `src` and time t, dw the increment over `steps` together."""
    beside = f"w{out}"
    noise = tuple([(Mixing([[0.0, 0.0], [0.0, math.sqrt(abs(b.t[k + 1] - b.t[k]))]]), k) for k in steps])
    b.ops.append(Combine(beside, ((X_ALONE, src),), noise))
    b.slots = max(b.slots, steps[-1] + 1)
    return b.evaluate(out, t, FLOW, beside)
