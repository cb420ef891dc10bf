"""docs/networks.md"""

from figures.figure import Stated

FIGURES = []
STATED = [
    Stated("the same to <1e-11> (<1e-9> where", "the tolerances of the tests"),
    Stated("JiT's clamp of 1 - t at <0.05>", "JiT's own"),
]
