"""What a replay must put back around a network call: autocast, and the random state if the call drew from it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from ...solvers import Call
from .turns import Turns

REPLAYING = ContextVar("REPLAYING", default=False)  # whether the call under way is made a second time


class CallState:
    """Autocast and random state of one network call: noted before it, sealed after it, restored around its replay.

    Args:
        device: where the call draws.
        turns: the run's, which keep other threads from drawing in between.
    """

    def __init__(self, device: torch.device, turns: Turns) -> None:
        self.device, self.turns = device, turns
        self.autocast = _autocast(device.type)
        self.cpu: Tensor | None = torch.get_rng_state()
        self.cuda: Tensor | None = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def seal(self) -> None:
        """Forget the random state if the call drew nothing: putting it back costs more than this comparison."""
        if self.cpu is not None and torch.equal(self.cpu, torch.get_rng_state()):
            self.cpu = None
        if self.cuda is not None and torch.equal(self.cuda, torch.cuda.get_rng_state(self.device)):
            self.cuda = None
        self.turns.note(self.random)

    @property
    def random(self) -> bool:
        """Whether the call drew random numbers, as seen when it was sealed."""
        return self.cpu is not None or self.cuda is not None

    def __eq__(self, other: object) -> bool:
        """Whether putting either back does the same; never where random numbers were drawn."""
        return (
            isinstance(other, CallState)
            and self.device == other.device
            and self.autocast == other.autocast
            and not (self.random or other.random)
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
        token = REPLAYING.set(True)
        try:
            if self.random:
                with self.turns.taken(), self._drawing_again(), self.graph():
                    yield
            else:
                with self.graph():
                    yield
        finally:
            REPLAYING.reset(token)

    def rewind(self) -> None:
        """Put the random state back, to draw what the call drew."""
        if self.cpu is not None:
            torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)

    @contextmanager
    def _drawing_again(self) -> Iterator[None]:
        before = None if self.cpu is None else torch.get_rng_state()
        device_before = None if self.cuda is None else torch.cuda.get_rng_state(self.device)
        self.rewind()
        try:
            yield
        finally:
            if before is not None:
                torch.set_rng_state(before)
            if device_before is not None:
                torch.cuda.set_rng_state(device_before, self.device)


class CallStates:
    """The states of a run's calls in their order; neighbours that are equal share one object.

    Args:
        first: the index of the first call: a truncated run starts later than its plan.
    """

    def __init__(self, first: int) -> None:
        self.first, self.states, self.turns = first, list[CallState](), Turns()

    def __len__(self) -> int:
        return len(self.states)

    def add(self, state: CallState) -> None:
        """Seal the state of the call just made, and keep it."""
        state.seal()
        self.states.append(self.states[-1] if self.states and state == self.states[-1] else state)

    def rewind(self, latest: CallState) -> None:
        """Put the random state back as it was before the run's first draw: the run is made again in another way.

        Args:
            latest: of the call under way.
        """
        latest.seal()
        drew = next((state for state in (*self.states, latest) if state.random), None)
        if drew is not None:
            drew.rewind()

    def of(self, call: Call) -> CallState:
        """The state that `call` was made in."""
        return self.states[call.index - self.first]


def _autocast(kind: str) -> tuple[bool, torch.dtype]:
    return torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
