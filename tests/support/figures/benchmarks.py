"""docs/benchmarks.md"""

from figures.figure import Generated
from figures.results import script

FIGURES = [Generated(script("page").written())]
STATED = []
