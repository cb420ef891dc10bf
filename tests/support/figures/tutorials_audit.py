"""docs/tutorials/audit.md"""

from figures.figure import Figure
from figures.results import results

FIGURES = [Figure("to {0.87} and a fourteenth", results("tutorials")["audit"]["cosine, class, Truncated(3)"])]
STATED = []
