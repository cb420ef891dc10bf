"""docs/tutorials/pipeline.md"""

from figures.figure import Row, Stated
from figures.results import results

found = results("tutorials")["pipeline"]
ROWS = {
    "one sample": "one sample", "the best of 36": "best of 36", "one guided run": "guided",
    "12 steps on the prompt": "prompt", "12 steps on the latents": "latents",
}  # fmt: skip

FIGURES = [
    Row(
        f"| {label} |",
        *(found[f"{name}, {where}"] for where in ("seen", "unseen")),
        ...,
        ...,
        under="| mean square error",
    )
    for label, name in ROWS.items()
]
STATED = [
    Stated("<8> calls forward, <8> more on the way back, <8> vector", "the plan"),
    Stated("without a VJP of the UNet: <8>", "the plan"),
    Stated("12 steps are <12> times", "arithmetic"),
]
