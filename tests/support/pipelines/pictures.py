"""Tiny pipelines in float64 for laws of their pictures."""

import functools
from typing import Any

import torch

from pullback.solvers.pipelines import DiffusersPipeline, from_diffusers

from .build import library
from .case import single
from .image import CASES

FAMILIES = {case.name: case for case in CASES}


@functools.cache
def tiny(name: str, steps: int, scheduler: str | None = "DDIM", **settings: Any) -> DiffusersPipeline:
    """A pipeline in float64, with a scheduler of that kind; None: its own."""
    case = FAMILIES[name]
    with single():
        pipe = case.build()
        if scheduler is not None:
            kind = getattr(library(), f"{scheduler}Scheduler")
            more = {"clip_sample": False} if scheduler == "DDIM" else {}
            pipe.scheduler = kind.from_config(pipe.scheduler.config, timestep_spacing="trailing", **more)
    pipe.to(torch.float64).vae.requires_grad_(False)
    return from_diffusers(pipe, steps, **{**case.call(pipe), **settings})
