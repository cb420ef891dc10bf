"""A function between each data prediction and the step: clipping, dynamic thresholding, projection onto a domain."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from ..broadcast import per_sample
from ..compiler import Builder, Method
from ..instructions import Apply, Combine, Evaluate, Instruction
from ..packing import State
from ..prediction import DATA, conversion
from ..process import as_time


@dataclass(frozen=True)
class OnData(Method):
    """`base` with fn(D) in place of every data prediction D(x, t).

        OnData(DPMSolverPP(2), Clamp(-1, 1))

    A multistep method remembers fn(D) too. Where `base` asks for the noise or the velocity, it gets that of x
    and fn(D): eps = (x - alpha fn(D))/sigma. Where sigma = 0 the prediction is the state itself, and stands.

    Args:
        base: any method.
        fn: from D (B, ...) to its like in form and shape, differentiable by autograd: `Clamp`, `DynamicThreshold`, or
            any callable; a frozen dataclass with `__call__` also prints, compares and pickles.

    The plan samples, splits, and is differentiated by `Direct` and `Checkpoint`. Nothing is known of fn, so the
    inverse, transitions, moments and coefficients of the plan are refused, and with them the strategies that
    need them. Order: `base`'s, where fn is smooth. Cost: `base`'s, and one fn a network call.
    """

    base: Method
    fn: Callable[[State], State]

    @property
    def order(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.base.order

    @property
    def stochastic(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.base.stochastic

    def step(self, b: Builder, i: int) -> None:
        first = len(b.ops)
        self.base.step(b, i)
        b.ops[first:] = [new for op in b.ops[first:] for new in self._treated(b, op)]

    def _treated(self, b: Builder, op: Instruction) -> list[Instruction]:
        """An Evaluate with fn after it, in data; any other instruction as it is."""
        if not isinstance(op, Evaluate):
            return [op]
        (out, *rest), t = op.outs, as_time(op.t)
        if float(b.process.sigma(t)) == 0:
            return [op]
        if op.want == DATA:
            return [op, Apply((out,), (out,), _Shaped(self.fn))]
        data = f"{out}_data"
        own, gain = (float(c) for c in conversion(DATA, op.want, b.process, t))
        back = Combine(out, tuple([(c, name) for c, name in ((own, op.src), (gain, data)) if c != 0.0]))
        return [replace(op, outs=(data, *rest), want=DATA), Apply((data,), (data,), _Shaped(self.fn)), back]


@dataclass(frozen=True, repr=False)
class _Shaped:
    """fn, of which a result of another shape is refused: it would be broadcast over batch mates."""

    fn: Callable[[State], State]

    def __call__(self, data: State) -> State:
        out = self.fn(data)
        if (
            isinstance(data, Tensor) and out.shape != data.shape
        ):  # a joint state's leaves are compared when packed
            raise ValueError(
                f"OnData: got shape {tuple(out.shape)} from {self}, expected the data's {tuple(data.shape)}; "
                "expand what it shares"
            )
        return out

    def __repr__(self) -> str:
        return str(getattr(self.fn, "__name__", self.fn))


@dataclass(frozen=True)
class Clamp:
    """D clamped to [low, high], the range of the data. No gradient flows where it bites."""

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"Clamp: got low={self.low}, high={self.high}, expected low < high; swap them")

    def __call__(self, data: Tensor) -> Tensor:
        return data.clamp(self.low, self.high)


@dataclass(frozen=True)
class DynamicThreshold:
    """D clamped to [-s, s] and divided by s; s is the `quantile` of a sample's |D|, held within [1, most].

    For data in [-1, 1] under strong classifier-free guidance: what leaves the range is pulled in, and the rest
    with it, in place of being cut off. Source: Saharia et al. 2022 (Imagen), arXiv 2205.11487, section 2.3.
    """

    quantile: float = 0.995
    most: float = math.inf

    def __post_init__(self) -> None:
        if not 0 < self.quantile <= 1 or not self.most >= 1:
            raise ValueError(
                f"DynamicThreshold: got quantile={self.quantile}, most={self.most}, expected 0 < quantile <= 1 "
                "and most >= 1"
            )

    def __call__(self, data: Tensor) -> Tensor:
        level = data.flatten(1).abs().quantile(self.quantile, dim=1).clamp(1.0, self.most)
        bound = per_sample(level, data)
        return data.clamp(-bound, bound) / bound
