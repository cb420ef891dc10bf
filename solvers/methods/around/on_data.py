"""A function between each data prediction and the step: clipping, dynamic thresholding, projection onto a domain."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor
from torch.utils._pytree import tree_map

from ...broadcast import per_sample
from ...compiler import Builder, Method
from ...cut_off import cut_off
from ...instructions import Combine, Evaluate, Instruction
from ...packing import State
from ...prediction import DATA, conversion
from ...process import Process, as_time


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

    fn is part of the network call, so that plans sample, split, turn round, have transitions and recover noise as
    base's do, and every strategy differentiates them. Nothing is known of it, so `moments`, `expand` and strategies
    that solve the flow itself refuse. Order: `base`'s, where fn is smooth. Cost: `base`'s, and one fn a network call.
    """

    base: Method
    fn: Callable[[State], State]

    @property
    def order(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.base.order

    @property
    def stochastic(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.base.stochastic

    @property
    def staggered(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.base.staggered

    def step(self, b: Builder, i: int) -> None:
        first = len(b.ops)
        self.base.step(b, i)
        b.ops[first:] = [new for op in b.ops[first:] for new in self._treated(b.process, op)]

    def _treated(self, process: Process, op: Instruction) -> list[Instruction]:
        """An Evaluate with fn in it, of data; any other instruction as it is."""
        if not isinstance(op, Evaluate) or float(process.sigma(as_time(op.t))) == 0:
            return [op]
        out, fn = op.outs[0], self.fn if op.then is None else _InTurn(self.fn, op.then)
        if op.want == DATA:
            return [replace(op, then=fn)]
        data = f"{out}_data"
        return [replace(op, outs=(data, *op.outs[1:]), want=DATA, then=fn), _from_data(process, op, data)]


@dataclass(frozen=True)
class OnDataOnly(OnData):
    """As `OnData`, with the noise prediction left as the network gave it: the step starts from

        x' = alpha fn(D) + sigma eps = x + alpha (fn(D) - D)      in place of x = alpha D + sigma eps.

    This is what DDIM's `clip_sample` does in diffusers (without `use_clipped_model_output`, which is `OnData`), and
    TCD's. The two predictions come from one call. Not reversible: x is overwritten. Guides refuse such a plan.
    """

    def _treated(self, process: Process, op: Instruction) -> list[Instruction]:
        found = super()._treated(process, op)
        if found == [op]:
            return found
        call, *back = found
        assert isinstance(call, Evaluate) and isinstance(op, Evaluate)
        if op.then is not None:
            raise ValueError(
                f"OnDataOnly: got {self.base}, which has a function on its data already, expected none below: which of "
                "the two moves the state? write one function that does both"
            )
        if op.variance:
            raise ValueError(
                f"OnDataOnly: got {self.base}, which asks for variances, expected SMALL or LARGE; use OnData"
            )
        data, raw, alpha = call.outs[0], f"{op.outs[0]}_raw", float(process.alpha(as_time(op.t)))
        if alpha == 0:
            return found
        moved = Combine(op.src, ((1.0, op.src), (alpha, data), (-alpha, raw)))
        return [replace(call, outs=(data, raw)), moved, *back]


def _from_data(process: Process, op: Evaluate, data: str) -> Combine:
    """What `op` asked for, of its state and of the register `data`."""
    own, gain = (float(c) for c in conversion(DATA, op.want, process, as_time(op.t)))
    return Combine(op.outs[0], tuple([(c, name) for c, name in ((own, op.src), (gain, data)) if c != 0.0]))


@dataclass(frozen=True)
class _InTurn:
    """second(first(D))."""

    first: Callable[[State], State]
    second: Callable[[State], State]

    def __call__(self, data: State) -> State:
        return self.second(self.first(data))


@dataclass(frozen=True)
class Clamp:
    """D clamped to [low, high], the range of the data; of a joint state each leaf. No gradient flows where it bites."""

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"Clamp: got low={self.low}, high={self.high}, expected low < high; swap them")

    def __call__(self, data: State) -> State:
        return tree_map(lambda leaf: cut_off(leaf, self.low, self.high), data)


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

    def __call__(self, data: State) -> State:
        return tree_map(self._threshold, data)  # of a joint state every leaf by itself

    def _threshold(self, data: Tensor) -> Tensor:
        level = data.flatten(1).abs().quantile(self.quantile, dim=1).clamp(1.0, self.most)
        bound = per_sample(level, data)
        return data.clamp(-bound, bound) / bound
