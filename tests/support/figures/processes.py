"""docs/processes.md"""

from figures.figure import Stated

FIGURES = []
STATED = [Stated("leads to <0.002> and then to 0", "sigma_min of EDM")]
