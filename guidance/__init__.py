"""What the gradient is for: optimising what enters a sampler, steering it, editing, fine-tuning it to a reward.

Ground: `measurements`, `rewards`, `latents`, `edit`. On it: `guides` (measurements), `objectives` (rewards),
`particles` (guides, rewards), `recognition` (rewards), `morphs` (edit, guides, latents, particles, recognition),
`adversarial` (guides), `learning` (latents), `train` (objectives, rewards). Nothing imports upwards. What their pages
show can be had from here; `edit` keeps its names to itself: `from pullback.guidance import edit`.
"""

from . import (
    adversarial,
    edit,
    guides,
    latents,
    learning,
    measurements,
    morphs,
    objectives,
    particles,
    recognition,
    rewards,
    train,
)
from .adversarial import *
from .guides import *
from .latents import *
from .learning import *
from .measurements import *
from .morphs import *
from .objectives import *
from .particles import *
from .recognition import *
from .rewards import *
from .train import *

__all__ = [
    "adversarial",
    "edit",
    "guides",
    "latents",
    "learning",
    "measurements",
    "morphs",
    "objectives",
    "particles",
    "recognition",
    "rewards",
    "train",
]
__all__ += adversarial.__all__
__all__ += guides.__all__
__all__ += latents.__all__
__all__ += learning.__all__
__all__ += measurements.__all__
__all__ += morphs.__all__
__all__ += objectives.__all__
__all__ += particles.__all__
__all__ += recognition.__all__
__all__ += rewards.__all__
__all__ += train.__all__
