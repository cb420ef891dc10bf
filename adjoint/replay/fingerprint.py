"""Marks: two numbers of each sample of a network's output, kept to see that the replay says the same.

What nobody declared leaves no version behind: Python attributes, captured constants, generators of the
network's own.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ...solvers import Call

COUNT = 2  # numbers for each sample: a change that one projection misses, of its size or less, the other sees

# By how much a replay's marks may differ, relative to themselves, by the coarsest dtype at work. Replays on the same
# machine are bit-equal nearly always; kernels that add in another order from call to call differ by what is measured
# in tests/adjoint/test_repeats.py, at least twenty times below these.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 5e-3}
HALF = 2e-2  # bfloat16, and anything shorter
LOOSE = 0.05  # a whole run made again in another precision


def tolerance(tensors: Iterable[Tensor], autocast: Iterable[tuple[bool, torch.dtype]]) -> float:
    """What is allowed to a network of these tensors, under these (enabled, dtype) of autocast."""
    dtypes = {value.dtype for value in tensors if value.is_floating_point()}
    dtypes |= {dtype for enabled, dtype in autocast if enabled}
    return max(TOLERANCE.get(dtype, HALF) for dtype in dtypes)


class Projection:
    """Marks of outputs (B, ...): w_1 . out, w_2 . out of each sample, with weights that are always the same.

    A change of the output by the share r of its norm changes a mark by about r of its size, wherever it lies and
    whatever its sign. Cost: one reduction over the output a call, no look at the device; two samples of memory.

    Args:
        like: (B, ...) as the outputs.
    """

    def __init__(self, like: Tensor) -> None:
        # pseudo-random without a generator: made where the outputs are, and nobody waits for a seed
        k = torch.arange(1, COUNT * like.shape[1:].numel() + 1, dtype=like.dtype, device=like.device)
        digits = (k * 12.9898).sin() * 43758.5453
        self.weights = (12**0.5 * (digits - digits.floor() - 0.5)).reshape(COUNT, -1)

    def __call__(self, out: Tensor) -> Tensor:
        """(B, 2)"""
        # of an output with a variance behind it, the prediction
        rows, kind = out.detach().flatten(1)[:, : self.weights.shape[1]], out.device.type
        if not torch.is_autocast_enabled(kind):
            return torch.nn.functional.linear(rows, self.weights)
        with torch.autocast(kind, enabled=False):
            return torch.nn.functional.linear(rows, self.weights)


def drift(then: Tensor, now: Tensor, allowed: float) -> Tensor:
    """The largest difference between marks (..., B, 2) of two times, as a share of what is allowed.

    Above 1, or NaN, it was not the same network. Nothing is read from the device.
    """
    if not then.numel():
        return then.new_zeros(then.shape[:-2])
    scale = then.abs().amax((-2, -1)).clamp_min(1e8 * torch.finfo(then.dtype).tiny)
    return (now - then).abs().amax((-2, -1)) / (allowed * scale)


def not_repeated(name: str) -> RuntimeError:
    """What to raise where a drift exceeds 1."""
    return RuntimeError(
        f"{name} gave another output in the backward pass than in the forward pass, expected the same: it is "
        "random by a generator of its own, or uses something that changed since or that another call left; fix "
        "its seed, pass what changes in cond, call backward before changing it, or use Direct()"
    )


def check_repeated(name: str, then: Tensor, now: Tensor, allowed: float) -> None:
    """Raise RuntimeError where the marks of an output differ."""
    if not drift(then, now, allowed) <= 1:
        raise not_repeated(name)


class Replays:
    """The calls that a backward pass makes again, to be compared at its end: one look at the device for all.

    Args:
        marks: of the calls in the forward pass, one after the other; none if nothing is to be compared.
        first: the index of the first of them.
        projection: which made them.
        allowed: see `tolerance`.
    """

    def __init__(self, marks: Sequence[Tensor], first: int, projection: Projection, allowed: float) -> None:
        self.marks, self.first, self.projection, self.allowed = marks, first, projection, allowed
        self.made: list[tuple[int, int]] = []
        self.again: list[Tensor] = []

    def note(self, call: Call, out: Tensor) -> None:
        """`call` was made again and gave `out`."""
        if self.marks:
            self.made.append((call.index, call.step))
            self.again.append(self.projection(out))

    def compare(self) -> None:
        """Raise RuntimeError naming a call whose output has changed."""
        if not self.made:
            return
        then = torch.stack([self.marks[index - self.first] for index, _ in self.made])
        found = drift(then, torch.stack(self.again), self.allowed).tolist()
        for (index, step), value in zip(self.made, found, strict=True):
            if not value <= 1:
                raise not_repeated(f"network call {index} of step {step}")
