"""docs/reward.md"""

from figures.figure import Stated

FIGURES = []
STATED = [Stated("to <1e-9> in float64 for every objective", "the tolerance of the test that it names")]
