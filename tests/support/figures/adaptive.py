"""docs/adaptive.md"""

from figures.figure import Figure, Stated
from figures.results import results

found = results("small_studies")["adaptive"]
fits, other = found["VP, uniform in lambda"], found["EDM, uniform in t"]

FIGURES = [
    Figure(
        "an error of {0.0005} at {36} calls, `AdaptiveDPM(3)` {0.021} at {37}",
        *fits["fixed"],
        *fits["AdaptiveDPM(3)"],
    ),
    Figure(
        "they have {0.73} at {36} calls, `AdaptiveDPM(3)` {0.020} at as many",
        *other["fixed"],
        other["AdaptiveDPM(3)"][0],
    ),
]
STATED: list[Stated] = []
