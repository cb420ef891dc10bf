"""docs/porting/deepinv.md"""

from figures.figure import Stated

FIGURES = []
STATED = [Stated("in [0, 1] is <0.1> in [-1, 1]", "arithmetic")]
