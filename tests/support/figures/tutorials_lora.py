"""docs/tutorials/lora.md"""

from figures.figure import Stated

FIGURES = []
STATED = [
    Stated("costs <4> network calls, <4> once more on the way back and <4> VJPs", "the plan"),
    Stated("takes the last step alone: <4> calls, <1> VJP", "the plan"),
]
