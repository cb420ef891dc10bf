"""docs/tutorials/lora.md"""

from figures.figure import Stated

CALLS = "the steps of the plan"

FIGURES = []
STATED = [
    Stated("costs <4> network calls, <4> once more on the way back and <4> VJPs", CALLS),
    Stated("the last step alone: <4> calls, <1> VJP", CALLS),
]
