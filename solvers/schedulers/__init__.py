"""What plan is this diffusers scheduler? Reads its own loop off it, or puts another there. Knows methods by their
steps, never imports it.
"""

from .drop_in import as_scheduler
from .found import SchedulerPlan
from .reading import plan_from_scheduler

__all__ = ["SchedulerPlan", "as_scheduler", "plan_from_scheduler"]
