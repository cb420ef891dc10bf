"""docs/porting/torchdiffeq.md"""

from figures.figure import Stated

FIGURES = []
STATED = [Stated("keeps those of <40> calls", "20 midpoint steps of two calls")]
