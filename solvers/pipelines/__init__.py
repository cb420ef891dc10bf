"""What model and plan is this diffusers pipeline? Knows schedulers; diffusers itself is never imported."""

from .pipeline import DiffusersPipeline, from_diffusers

__all__ = ["DiffusersPipeline", "from_diffusers"]
