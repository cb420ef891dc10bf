"""The batch arithmetic: how many samples each process takes at a time follows from the samples of an optimiser
step, the repeats of a prompt and the number of processes.
"""

import math
from dataclasses import dataclass

from ...solvers.checked import checked
from ...solvers.wanted import Count


@dataclass(frozen=True)
class Arithmetic:
    """How the samples of one iteration are dealt out.

    Args:
        processes: at work.
        repeats: samples of one prompt.
        updates: batches per rollout, `pieces` per batch, each `piece` samples over all processes.
    """

    processes: int
    repeats: int
    updates: int
    pieces: int
    piece: int

    @property
    def drawn(self) -> int:
        """Samples of one iteration, over all processes."""
        return self.updates * self.pieces * self.piece

    @property
    def share(self) -> int:
        """Samples that one device takes at a time."""
        return self.piece // self.processes

    def __str__(self) -> str:
        return (
            f"{self.drawn} samples a rollout = {self.updates} updates x {self.pieces} accumulated pieces x "
            f"{self.processes} processes x {self.share} samples at a time; {self.drawn // self.repeats} "
            f"prompts x {self.repeats} repeats"
        )


@checked
def batch_arithmetic(
    samples: Count, updates: Count, limit: Count | None, repeats: Count, processes: Count
) -> Arithmetic:
    """The fewest pieces of whole prompt groups, equal on every process, with at most `limit` samples a device.

    Statistics of a group are taken within a piece, over all processes: hence whole groups.

    Raises:
        ValueError: no such pieces.
    """
    unit = math.lcm(repeats, processes)
    if samples % unit:
        raise ValueError(
            f"samples: got {samples} per update, expected a multiple of {unit}: {repeats} repeats of a "
            f"prompt, equal shares for {processes} processes; take {max(1, round(samples / unit)) * unit}"
        )
    pieces = next(
        (
            n
            for n in range(1, samples // unit + 1)
            if samples % (n * unit) == 0 and (limit is None or samples // n <= limit * processes)
        ),
        None,
    )
    if pieces is None:
        raise ValueError(
            f"limit: got {limit} samples a device, expected at least {unit // processes}: whole groups of "
            f"{repeats} repeats over {processes} processes; raise it or repeat prompts less often"
        )
    return Arithmetic(processes, repeats, updates, pieces, samples // pieces)
