"""docs/diffusers.md"""

from figures.figure import Generated
from figures.results import results, script

FIGURES = [Generated(script("diffusers_parity").table(results("diffusers_parity")["configurations"]))]
STATED = []
