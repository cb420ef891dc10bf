"""From a gradient at the sample to gradients at the inputs. Knows no objectives."""

from ..solvers.per_step import PerStep
from . import bridges, choosing, continuous, density, multilevel, parallel, second_order, strategies
from .auditing import Audit, audit
from .bridges import *
from .choosing import *
from .continuous import *
from .density import *
from .multilevel import *
from .parallel import *
from .planning import plan_gradient
from .replay.rollout import Registers, Rollout
from .replay.schedule import Keep
from .sampling import sample, trajectory
from .second_order import *
from .strategies import *

__all__ = [
    "Audit", "Keep", "PerStep", "Registers", "Rollout", "audit", "bridges", "choosing", "continuous", "density",
    "multilevel", "parallel", "plan_gradient", "sample", "second_order", "strategies", "trajectory",
]  # fmt: skip
__all__ += bridges.__all__
__all__ += choosing.__all__
__all__ += continuous.__all__
__all__ += density.__all__
__all__ += multilevel.__all__
__all__ += parallel.__all__
__all__ += second_order.__all__
__all__ += strategies.__all__
