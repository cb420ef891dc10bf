"""Ctrl-C and a cluster's SIGTERM as a request, heard between two pieces of work. A second one ends at once."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from .processes import Processes
from .undo import Pause

SAID = b"interrupt: stopping after this piece of work, then saving; a second one ends at once\n"


class Interrupt(Pause):
    """Within the context SIGINT and SIGTERM are noted, for `asked` on all processes; outside the main thread nothing
    is caught.
    """

    def __init__(self, world: Processes) -> None:
        self.world, self.noted = world, False
        self.former: dict[int, Any] = {}

    def asked(self) -> bool:
        return self.world.any(self.noted)

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            self.former = {
                number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)
            }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.former.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.noted:
            raise KeyboardInterrupt
        self.noted = True
        if self.world.first:
            os.write(2, SAID)  # print is not safe here: the handler may stand inside another print
