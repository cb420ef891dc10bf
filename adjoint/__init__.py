"""From a gradient at the sample to gradients at the inputs. Knows no objectives."""

from ..solvers.per_step import PerStep
from . import bridges, continuous, density, parallel
from .auditing import Audit, audit
from .auto import Auto
from .bridges import *
from .checkpoint import Checkpoint, Mechanism
from .continuous import *
from .density import *
from .direct import Direct
from .gradient import Gradient
from .jacobian_free import JacobianFree
from .parallel import *
from .replay.rollout import Registers, Rollout
from .replay.schedule import Keep
from .reversible import Reversible
from .sampling import sample, trajectory
from .skip_straight import SkipStraight
from .truncated import Truncated

__all__ = [
    "Audit", "Auto", "Checkpoint", "Direct", "Gradient", "JacobianFree", "Keep", "Mechanism", "PerStep", "Registers",
    "Reversible", "Rollout", "SkipStraight", "Truncated", "audit", "bridges", "continuous", "density", "parallel",
    "sample", "trajectory",
]  # fmt: skip
__all__ += bridges.__all__
__all__ += continuous.__all__
__all__ += density.__all__
__all__ += parallel.__all__
