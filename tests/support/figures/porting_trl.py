"""docs/porting/trl.md"""

from figures.figure import Stated

FIGURES = []
STATED = [Stated("were deprecated in <0.20> and are gone since TRL <0.24>", "versions")]
