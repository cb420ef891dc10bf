"""Turns: network calls that draw random numbers are made one at a time, since all threads share torch's generator.

A draw of another thread between noting the generator's state and the end of the call would make the call
unrepeatable. Only such calls wait for one another, and the first of each run, which shows whether the network
draws.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import RLock

_LOCK = RLock()
_TAKEN = ContextVar("_TAKEN", default=False)  # whether this thread's turn it is


class Turns:
    """Of one run.

    A run inside another's network call (`inner`) has its turn already. It does not ask for one in its backward
    pass either: on a device that is another thread's, for which the outer call, holding the lock, waits.
    """

    def __init__(self) -> None:
        self.inner = _TAKEN.get()
        self.draws = True  # unless the first call shows otherwise
        self.first = True

    def note(self, random: bool) -> None:
        """A call has been made, and whether it drew."""
        self.draws = random if self.first else self.draws or random
        self.first = False

    @contextmanager
    def taken(self) -> Iterator[None]:
        """No other thread draws in a network call meanwhile."""
        if self.inner:
            yield
            return
        with _LOCK:
            token = _TAKEN.set(True)
            try:
                yield
            finally:
                _TAKEN.reset(token)
