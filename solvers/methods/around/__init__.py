"""What can be put around any method: another method at its ends, a function on its predictions, noise, jumps or
Langevin steps between its steps. Knows methods and their instructions, no network and no gradient.
"""

from .ancestral import Ancestral
from .ends import Ends
from .langevin_corrected import LangevinCorrected, Norms
from .on_data import Clamp, DynamicThreshold, OnData, OnDataOnly
from .restart import Restart

__all__ = [
    "Ancestral", "Clamp", "DynamicThreshold", "Ends", "LangevinCorrected", "Norms", "OnData", "OnDataOnly",
    "Restart",
]  # fmt: skip
