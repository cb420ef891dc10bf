"""docs/finetune.md"""

from figures.figure import Figure, Row, Stated
from figures.results import results

tuned, mixture, attainable = results("digits/finetune"), results("tilted_mixture"), results("attainable")
COLUMNS = ("base", "Adjoint Matching", "DRaFT + KL", "the best of 16 Gaussian steps")
before, after = tuned["before"], tuned["after"]

FIGURES = [
    Figure(
        "log p(3 | x) went from {-3.9} +- {0.2} to {-0.07} +- {0.02} at {8.8} nats, and a classifier that training never saw "
        "reads a 3 with probability {0.95} instead of {0.10}; asked for a 3 by its label, the base is at {0.94}",
        *(value for side in (before, after) for value in (side["reward"], side["reward_se"])),
        after["kl"],
        after["judge"],
        before["judge"],
        tuned["asked_by_label"],
    ),
    Figure("two draws of the exact law are {0.02} apart", mixture["sliced_w1"]["two draws of the exact law"]),
    Row("| distance |", *(mixture["sliced_w1"][name] for name in COLUMNS), ...),
    Row("| E r |", *(mixture["reward"][name] for name in (*COLUMNS, "the exact law"))),
    Figure(
        "With 10, 25 and 40 steps the best has E r {-0.81}, {-0.70} and {-0.68}",
        *(attainable["reward"][f"the best of {n} Gaussian steps"] for n in (10, 25, 40)),
    ),
]
STATED: list[Stated] = []
