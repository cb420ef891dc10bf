"""What plan is this diffusers scheduler? Reads its own loop off it. Knows methods by their steps, never imports it."""

from .found import SchedulerPlan
from .reading import plan_from_scheduler

__all__ = ["SchedulerPlan", "plan_from_scheduler"]
