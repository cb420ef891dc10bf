"""From a gradient at the sample to gradients at the inputs. Knows no objectives."""

from ..solvers.per_step import PerStep
from . import bridges, continuous, density, multilevel, parallel, second_order
from .auditing import Audit, audit
from .auto import Auto
from .bridges import *
from .checkpoint import Checkpoint, Mechanism
from .continuous import *
from .density import *
from .direct import Direct
from .gradient import Gradient
from .gradient_plan import GradientPlan
from .input import Input
from .jacobian_free import JacobianFree
from .multilevel import *
from .parallel import *
from .planning import plan_gradient
from .replay.rollout import Registers, Rollout
from .replay.schedule import Keep
from .reversible import Reversible
from .sampling import sample, trajectory
from .second_order import *
from .skip_straight import SkipStraight
from .truncated import Truncated

__all__ = [
    "Audit", "Auto", "Checkpoint", "Direct", "Gradient", "GradientPlan", "Input", "JacobianFree", "Keep",
    "Mechanism", "PerStep", "Registers", "Reversible", "Rollout", "SkipStraight", "Truncated", "audit", "bridges",
    "continuous", "density", "multilevel", "parallel", "plan_gradient", "sample", "second_order", "trajectory",
]  # fmt: skip
__all__ += bridges.__all__
__all__ += continuous.__all__
__all__ += density.__all__
__all__ += multilevel.__all__
__all__ += parallel.__all__
__all__ += second_order.__all__
