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
    """The largest difference between two marks (..., B, K), relative to the first and to what rounding
    explains; no sync.
    """
    # half-precision networks and non-deterministic kernels differ by percents, under float64 states by
    # nothing like it
    allowed = 1e-6 if then.dtype == torch.float64 else 0.05
    scale = then.abs().amax((-2, -1)).clamp_min(torch.finfo(then.dtype).tiny)
    return (now - then).abs().amax((-2, -1)) / (allowed * scale)


def changed(name: str) -> RuntimeError:
    """What to raise where a drift exceeds 1."""
    return RuntimeError(
        f"{name} gave another output in the backward pass than in the forward pass, expected the same: it is "
        "random by a generator of its own, or uses something that changed since; fix its seed, pass what "
        "changes in cond, call backward before changing it, or use Direct()"
    )


def compare(marks: Sequence[Tensor], seen: dict[int, tuple[Call, Tensor]]) -> None:
    """Raise RuntimeError naming a replayed call (by its place among `marks`) whose mark has drifted; one look
    at the device.
    """
    if not seen:
        return
    then = torch.stack([marks[place] for place in seen])
    found = drift(then, torch.stack([value for _, value in seen.values()])).tolist()
    for (call, _), value in zip(seen.values(), found, strict=True):
        if not value <= 1:
            raise changed(f"network call {call.index} of step {call.step}")
