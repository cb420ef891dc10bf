"""Ctrl-C and a cluster's SIGTERM as a request: the iteration is finished and saved first. A second one ends at once."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupt:
    """Within the context SIGINT and SIGTERM set `asked`; outside the main thread nothing is caught."""

    def __init__(self) -> None:
        self.asked = False
        self.former: dict[int, Any] = {}

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
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
