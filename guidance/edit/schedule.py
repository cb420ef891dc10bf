"""Schedule: how strong RF-Inversion's controller is at each step."""

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor


class Trend(Enum):
    """How a Schedule's value runs over its n steps j = 0 .. n - 1, or over all N steps i."""

    CONSTANT = "value"
    RISE = "value (j + 1)/n"
    FALL = "value (1 - j/n)"
    POWER = "value (1 - i/N)^power"


@dataclass(frozen=True)
class Schedule:
    """`value` at the steps i with start <= i/N < stop, nought elsewhere; 0 is the first step of the pass.

    Args:
        value: in [0, 1]. start, stop: fractions of the steps. trend: of the value inside. power: of
            `Trend.POWER`.
    """

    value: float = 0.9
    start: float = 0.0
    stop: float = 1.0
    trend: Trend = Trend.CONSTANT
    power: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 1:
            raise ValueError(f"Schedule: got value={self.value}, expected 0 <= value <= 1; 1 is full control")
        if not 0 <= self.start <= self.stop <= 1:
            raise ValueError(
                f"Schedule: got start={self.start}, stop={self.stop}, expected fractions 0 <= start <= stop "
                "<= 1"
            )
        if not self.power >= 0:
            raise ValueError(f"Schedule: got power={self.power}, expected at least 0")

    def values(self, steps: int) -> Tensor:
        """(N,) float64."""
        i = torch.arange(steps, dtype=torch.float64)
        low, high = round(self.start * steps), round(self.stop * steps)
        j, n = i - low, max(high - low, 1)
        shape = {
            Trend.CONSTANT: torch.ones_like(i),
            Trend.RISE: (j + 1) / n,
            Trend.FALL: 1 - j / n,
            Trend.POWER: (1 - i / steps) ** self.power,
        }[self.trend]
        return torch.where((i >= low) & (i < high), self.value * shape, 0.0)


Strength = Schedule | Tensor | float  # a tensor is (N,) or (N, B)


def strengths(name: str, value: Strength, steps: int, like: Tensor) -> Tensor:
    """The controller's gain at every step, (N,), or (N, B) for a schedule of each sample's own, with its graph.

    Raises:
        ValueError: another shape, or numbers outside [0, 1].
    """
    if isinstance(value, Tensor):
        if value.shape not in ((steps,), (steps, len(like))):
            raise ValueError(
                f"{name}: got shape {tuple(value.shape)}, expected ({steps},) or ({steps}, {len(like)}): one "
                "value per step, or per step and sample"
            )
        found = value.to(like.device)
    elif isinstance(value, Schedule):
        found = value.values(steps).to(like.device)
    elif 0 <= value <= 1:
        found = Schedule(float(value)).values(steps).to(like.device)
    else:
        raise ValueError(f"{name}: got {value}, expected 0 <= {name} <= 1")
    if not bool(((found.detach() >= 0) & (found.detach() <= 1)).all()):
        raise ValueError(
            f"{name}: got values from {float(found.detach().min()):.4g} to "
            f"{float(found.detach().max()):.4g}, expected them in [0, 1]; clamp them"
        )
    return found


def jumps(value: Strength, gain: Tensor) -> tuple[int, ...]:
    """The steps at whose beginning the controller's gain jumps: the edges of a schedule, every change of a table."""
    steps = len(gain)
    if isinstance(value, Schedule):
        edges = {round(value.start * steps), round(value.stop * steps)}
        return tuple(sorted(k for k in edges if 0 < k < steps)) if value.value else ()
    changed = (gain[1:] != gain[:-1]).flatten(1).any(1) if gain.ndim > 1 else gain[1:] != gain[:-1]
    return tuple((changed.nonzero()[:, 0] + 1).tolist())
