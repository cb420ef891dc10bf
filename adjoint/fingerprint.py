"""A mark: a few numbers of each sample of a network's output, kept to see that the replay says the same.

What nobody declared leaves no version behind: Python attributes, captured constants, generators of the
network's own.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..solvers import Call

PROBES = 8


def mark(out: Tensor) -> Tensor:
    """(B, at most 2 PROBES - 1) entries of `out`, evenly spread over each sample."""
    rows = out.detach().reshape(len(out), -1)
    return rows[:, :: max(1, rows.shape[1] // PROBES)].clone()


def drift(then: Tensor, now: Tensor) -> Tensor:
    """The largest difference between marks (..., B, K) of two times, as a share of what rounding explains.

    Above 1, or NaN, it was not the same network. Nothing is read from the device.
    """
    # half-precision networks and non-deterministic kernels differ by percents, under float64 states by
    # nothing like it
    allowed = 1e-6 if then.dtype == torch.float64 else 0.05
    scale = then.abs().amax((-2, -1)).clamp_min(torch.finfo(then.dtype).tiny)
    return (now - then).abs().amax((-2, -1)) / (allowed * scale)


def not_repeated(name: str) -> RuntimeError:
    """What to raise where a drift exceeds 1."""
    return RuntimeError(
        f"{name} gave another output in the backward pass than in the forward pass, expected the same: it is "
        "random by a generator of its own, or uses something that changed since; fix its seed, pass what "
        "changes in cond, call backward before changing it, or use Direct()"
    )


def check_repeated(name: str, then: Tensor, out: Tensor) -> None:
    """Raise RuntimeError where `out` is not the output that left the mark `then`."""
    if not drift(then, mark(out)) <= 1:
        raise not_repeated(name)


class Replays:
    """The calls that a backward pass makes again, to be compared at its end: one look at the device for all.

    Args:
        marks: of the calls in the forward pass, one after the other.
        first: the index of the first of them.
    """

    def __init__(self, marks: Sequence[Tensor], first: int) -> None:
        self.marks, self.first = marks, first
        self.made: list[tuple[int, int]] = []
        self.again: list[Tensor] = []

    def note(self, call: Call, out: Tensor) -> None:
        """`call` was made again and gave `out`."""
        self.made.append((call.index, call.step))
        self.again.append(mark(out))

    def compare(self) -> None:
        """Raise RuntimeError naming a call whose output has changed."""
        if not self.made:
            return
        then = torch.stack([self.marks[index - self.first] for index, _ in self.made])
        found = drift(then, torch.stack(self.again)).tolist()
        for (index, step), value in zip(self.made, found, strict=True):
            if not value <= 1:
                raise not_repeated(f"network call {index} of step {step}")
