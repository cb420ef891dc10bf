"""The processes of a training run, through accelerate where it is installed; one process needs neither it nor
a launcher.
"""

import importlib.util
import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..objectives.peers import World

TOLD = 1000  # bytes of a message that one process tells the others


class Processes(World):
    """World, and what the trainer itself does with the others. This one is alone."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def mean(self, values: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over the processes."""

    def spread(self, values: Iterable[Tensor]) -> None:
        """Replace each tensor by the first process's."""

    def wait(self) -> None:
        """Until all processes are here."""

    def any(self, flag: bool) -> bool:
        """Whether `flag` holds on any process."""
        return bool(self.gather(torch.tensor([float(flag)], device=self.device)).any())

    def told(self, trouble: str | None) -> str | None:
        """The first process's trouble that has some, on all of them, cut to `TOLD` bytes: to be raised together."""
        if not self.any(trouble is not None):
            return None
        mine = (trouble or "").encode()[:TOLD].ljust(TOLD, b"\0")
        rows = self.gather(torch.tensor([list(mine)], dtype=torch.uint8, device=self.device))
        said = [bytes(row.tolist()).rstrip(b"\0").decode(errors="ignore") for row in rows]
        return next(text for text in said if text)


class Accelerated(Processes):
    """Processes started by a launcher (`accelerate launch`, `torchrun`), through an `accelerate.Accelerator`."""

    def __init__(self, accelerator: Any) -> None:
        super().__init__(accelerator.device)
        self.accelerator, self.size, self.rank = (
            accelerator,
            accelerator.num_processes,
            accelerator.process_index,
        )

    def gather(self, values: Tensor) -> Tensor:
        return self.accelerator.gather(values.detach())

    def mean(self, values: Iterable[Tensor]) -> None:
        for value in values:
            value.copy_(self.accelerator.reduce(value, "mean"))

    def spread(self, values: Iterable[Tensor]) -> None:
        from accelerate.utils import broadcast

        for value in values:
            value.copy_(broadcast(value))

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()


def processes(accelerator: Any = None) -> Processes:
    """`Accelerated` where accelerate is installed, else alone.

    Raises:
        ImportError: a launcher started several processes and accelerate is missing. RuntimeError: accelerate
            finds fewer.
    """
    if accelerator is not None:
        return Accelerated(accelerator)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if importlib.util.find_spec("accelerate") is not None:
        from accelerate import Accelerator

        # on a machine without an accelerator Accelerate passes over the launcher unless told to stay on the
        # CPU
        found = Accelerator(cpu=size > 1 and not torch.accelerator.is_available())
        if found.num_processes != size:
            raise RuntimeError(
                f"processes: got {found.num_processes} by accelerate, expected the launcher's {size}: each "
                "would train alone and write to one folder; pass accelerator=Accelerator(...)"
            )
        return Accelerated(found)
    if size > 1:
        raise ImportError(
            "accelerate: got none, expected it for several processes; pip install 'pullback[train]'"
        )
    return Processes()
