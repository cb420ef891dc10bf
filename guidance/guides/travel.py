"""Time travel, to be added to any guide."""

from dataclasses import dataclass

from .guide import Guide


@dataclass(frozen=True)
class Travel(Guide):
    """Every step from fraction `start` up to fraction `stop` of the run is taken `times` times, the state
    noised back in between.

    `guide + Travel(8, 0.2, 0.6)`: a guide that is right at low noise and rough at high noise corrects there
    what it got wrong before.

    Source: Lugmayr et al. 2022 (RePaint), arXiv 2201.09865, algorithm 1; Yu et al. 2023 (FreeDoM), arXiv
    2303.09833, section 3.4. Cost: `times` network calls (and VJPs) a step; needs draws.
    """

    times: int = 4
    start: float = 0.2
    stop: float = 0.6

    def __post_init__(self) -> None:
        if self.times < 1 or not 0 <= self.start < self.stop <= 1:
            raise ValueError(
                f"Travel: got times={self.times} in {self.start} to {self.stop}, expected times >= 1 and "
                "0 <= start < stop <= 1"
            )

    def repeats(self, step: int, steps: int) -> int:
        return self.times if self.start <= step / steps < self.stop else 1
