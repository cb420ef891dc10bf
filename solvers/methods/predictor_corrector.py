"""A multistep step on the data prediction with an optional corrector at the predicted point."""

from collections.abc import Sequence
from enum import Enum

from ..compiler import Builder
from ..prediction import DATA


class CorrectorMode(Enum):
    """Which data prediction goes into the history of a corrected method.

    PEC keeps the one at the predicted point: 1 network call a step. PECE evaluates again at the corrected
    point: 2 calls.
    """

    PEC = "PEC"
    PECE = "PECE"

    def __repr__(self) -> str:
        return self.name


def corrected_step(
    b: Builder,
    i: int,
    ratio: float,
    predict: Sequence[float],
    correct: Sequence[float] = (),
    noise: float = 0.0,
    again: bool = False,
) -> None:
    """From node i to i + 1:

        p   = ratio x + sum_j predict_j D_{-j} + noise xi
        x_t = p + correct_0 D(p) + sum_j (correct_{j+1} - predict_j) D_{-j}

    which is the corrector's own formula with the predictor's xi. The last step is left at p unless evaluated
    `again`, or the grid asks for it: its corrector would cost a call and raise no order.
    """
    b.data(i)
    last = i + 1 == b.steps and not b.ends_twice
    past = [f"D{i - j}" for j in range(max(len(predict), len(correct) - 1))]
    terms = [(ratio, "x"), *zip(predict, past, strict=False)]
    if not correct or (last and not again):
        return b.combine("x", *terms, noise=noise)
    point = f"p{i + 1}"
    b.combine(point, *terms, noise=noise)
    fresh = b.evaluate(f"D{i + 1}", b.t[i + 1], DATA, point)
    new, *old = correct
    width = len(past)
    change = [c - p for c, p in zip(padded(old, width), padded(predict, width), strict=True)]
    b.combine("x", (1.0, point), (new, fresh), *zip(change, past, strict=True))
    if again and not last:
        b.evaluate(fresh, b.t[i + 1], DATA)


def padded(weights: Sequence[float], width: int) -> list[float]:
    """`weights` with zeros up to `width`."""
    return [*weights, *[0.0] * (width - len(weights))]
