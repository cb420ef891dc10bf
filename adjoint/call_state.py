"""What a replay must put back around a network call: autocast, and the random state if the call drew from it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Surroundings:
    """Noted before a call, sealed after it, restored around its replay."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.autocast = _autocast(device.type)
        self.cpu: Tensor | None = torch.get_rng_state()
        self.cuda: Tensor | None = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def seal(self) -> None:
        """Forget the random state if the call drew nothing: putting it back costs more than this comparison."""
        if self.cpu is not None and torch.equal(self.cpu, torch.get_rng_state()):
            self.cpu = None
        if self.cuda is not None and torch.equal(self.cuda, torch.cuda.get_rng_state(self.device)):
            self.cuda = None

    def __eq__(self, other: object) -> bool:
        """Whether putting either back does the same; never where random numbers were drawn."""
        return (
            isinstance(other, Surroundings)
            and self.device == other.device
            and self.autocast == other.autocast
            and self.cpu is self.cuda is other.cpu is other.cuda is None
        )

    @contextmanager
    def graph(self) -> Iterator[None]:
        """Grad mode on, autocast as it was."""
        enabled, dtype = self.autocast
        with torch.enable_grad():
            if not enabled and not torch.is_autocast_enabled(self.device.type):
                yield
            else:
                # no cache: a weight cast under no_grad and kept would have lost its graph
                with torch.autocast(self.device.type, dtype=dtype, enabled=enabled, cache_enabled=False):
                    yield

    @contextmanager
    def restored(self) -> Iterator[None]:
        """As `graph`, with the random state of the call; the outer one is untouched."""
        before = None if self.cpu is None else torch.get_rng_state()
        device_before = None if self.cuda is None else torch.cuda.get_rng_state(self.device)
        if self.cpu is not None:
            torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)
        try:
            with self.graph():
                yield
        finally:
            if before is not None:
                torch.set_rng_state(before)
            if device_before is not None:
                torch.cuda.set_rng_state(device_before, self.device)


def _autocast(kind: str) -> tuple[bool, torch.dtype]:
    return torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
