"""docs/tutorials/pipeline.md"""

from collections.abc import Iterator

from figures.figure import Row, Stated
from figures.results import results

found = results("tutorials")["pipeline"]
N, STEPS = 8, 12  # calls of a run, steps of optimising and a run at their end
COSTS = {  # by construction
    "one sample": ("one sample", N, 0),
    "the best of 36": ("best of 36", 36 * N, 0),
    "one guided run": ("guided", N, 0),
    "12 steps on the prompt": ("prompt", STEPS * 2 * N + N, STEPS * N),
    "12 steps on the latents": ("latents", STEPS * 2 * N + N, STEPS * N),
}


def table() -> Iterator[Row]:
    for label, (name, *costs) in COSTS.items():
        yield Row(f"| {label} |", found[f"{name}, seen"], found[f"{name}, unseen"], *costs)


FIGURES = [*table()]
STATED = [
    Stated("<8> calls forward, 8 more on the way back", "the steps of the plan"),
    Stated("without a VJP of the UNet: <8> calls", "the steps of the plan"),
    Stated("12 steps are <12> times the cost", "arithmetic"),
]
