"""Wanted: what an argument must be beyond its kind, said in its annotation: `lr: Positive = 0.1`."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Annotated, Any

from torch import Tensor


@dataclass(frozen=True)
class Wanted:
    """Of `Annotated[kind, Wanted(words, holds)]`: what `checked` and `CheckedFields` look for.

    Args:
        words: "a finite number > 0": what is expected, and what to do where that does not say it.
        holds: of a value of that kind; None where `words` are of the kind itself.
    """

    words: str
    holds: Callable[[Any], bool] | None = None


OWN_WORDS = Wanted("")  # whoever takes the argument says what is wrong with it


def _two_rates(value: Any) -> bool:
    """Whether it is a pair of numbers in [0, 1)."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        return False
    return all(isinstance(rate, Real) and 0 <= rate < 1 for rate in value)  # type: ignore[operator]


Count = Annotated[int, Wanted("a whole number >= 1", lambda n: n >= 1)]
Whole = Annotated[int, Wanted("a whole number >= 0", lambda n: n >= 0)]
Finite = Annotated[float, Wanted("a finite number", math.isfinite)]
Positive = Annotated[float, Wanted("a finite number > 0", lambda value: 0 < value < math.inf)]
NonNegative = Annotated[float, Wanted("a finite number >= 0", lambda value: 0 <= value < math.inf)]
Limit = Annotated[float, Wanted("a number > 0, infinity for no limit", lambda value: value > 0)]
Betas = Annotated[
    tuple[float, float], Wanted("Adam's two rates in [0, 1); the usual ones are (0.9, 0.999)", _two_rates)
]
Reals = Annotated[Tensor, Wanted("a tensor of real numbers", lambda x: not x.is_complex())]
RealNumbers = Annotated[
    Tensor,
    Wanted("a tensor of finite real numbers", lambda x: not x.is_complex() and bool(x.isfinite().all())),
]
Numbers = Annotated[
    Tensor,
    Wanted(
        "a floating point tensor of finite numbers; pass x.double() of integers",
        lambda x: x.is_floating_point() and bool(x.isfinite().all()),
    ),
]
Samples = Annotated[
    Tensor,
    Wanted(
        "a floating point tensor (B, ...) with a batch axis; pass x[None] for one sample, x.float() for integers, "
        "scaled to the range of the data",
        lambda x: x.ndim > 1 and x.is_floating_point(),
    ),
]
