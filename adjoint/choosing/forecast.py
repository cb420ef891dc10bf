"""Forecast: what one strategy would take of a run, and what a run may take."""

from dataclasses import dataclass

from ...solvers.checked import CheckedFields
from ...solvers.wanted import Count, Positive
from ..strategies.gradient import Gradient


@dataclass(frozen=True)
class Forecast:
    """One strategy's value and gradient, as predicted.

    Attributes:
        seconds: of value and gradient; infinite where nothing is known.
        memory: bytes, the most above the start; None where nothing is known.
        calls, vjps: network calls forward, replays included, and VJPs.
        why_not: why it cannot be chosen, whatever the limits; "" if it can.
    """

    strategy: Gradient
    seconds: float
    memory: int | None
    calls: int
    vjps: int
    why_not: str = ""


@dataclass(frozen=True)
class Limits(CheckedFields):
    """What a value and its gradient may take; None for no limit.

    Args:
        memory: bytes above the start. deadline: seconds. calls: network calls forward, replays included.
    """

    memory: Count | None = None
    deadline: Positive | None = None
    calls: Count | None = None

    def exceeded(self, forecast: Forecast) -> str:
        """What `forecast` exceeds, and by how much; "" if nothing."""
        over = []
        if self.memory is not None and forecast.memory is not None and forecast.memory > self.memory:
            over.append(f"{in_bytes(forecast.memory - self.memory)} over memory")
        if self.deadline is not None and forecast.seconds > self.deadline:
            over.append(f"{in_seconds(forecast.seconds - self.deadline)} past the deadline")
        if self.calls is not None and forecast.calls > self.calls:
            over.append(f"{forecast.calls - self.calls} calls too many")
        return ", ".join(over)

    def excess(self, forecast: Forecast) -> float:
        """By what factor `forecast` exceeds the limit that it exceeds most."""
        pairs = (
            (forecast.memory, self.memory),
            (forecast.seconds, self.deadline),
            (forecast.calls, self.calls),
        )
        return max((got / most for got, most in pairs if got is not None and most is not None), default=0.0)

    def __str__(self) -> str:
        said = [] if self.memory is None else [f"memory={in_bytes(self.memory)}"]
        said += [] if self.deadline is None else [f"deadline={in_seconds(self.deadline)}"]
        said += [] if self.calls is None else [f"calls={self.calls}"]
        return ", ".join(said) or "no limits"


def in_bytes(count: int) -> str:
    """As 1.50 MiB."""
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count >= 1024**power:
            return f"{count / 1024**power:.2f} {unit}"
    return f"{count} B"


def in_seconds(seconds: float) -> str:
    """As 1.5 ms."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"
