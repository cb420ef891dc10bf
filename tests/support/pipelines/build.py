"""Tiny networks with random weights, put together into pipelines."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Scheduler = Callable[[Any], Any]


def library() -> Any:
    """diffusers, silent."""
    import diffusers
    from diffusers.utils import logging

    logging.set_verbosity_error()
    return diffusers


def other(kind: str, **settings: Any) -> Scheduler:
    """pipeline -> another scheduler with the configuration of its own."""
    return lambda pipe: getattr(library(), f"{kind}Scheduler").from_config(pipe.scheduler.config, **settings)


def fresh(kind: str, **settings: Any) -> Scheduler:
    """pipeline -> another scheduler, whatever the configuration of its own."""
    return lambda pipe: scheduler(kind, **BETAS, **settings)


def redrawn(module: nn.Module, gain: float = 1.0) -> nn.Module:
    """All weights drawn anew, normal of deviation gain / sqrt(fan in): layers that start at zero are none any more."""
    for name, weight in module.named_parameters():
        normal = torch.randn_like(weight)
        if weight.ndim > 1:
            weight.data = gain * normal / max(weight[0].numel(), 1) ** 0.5
        else:
            weight.data = (1.0 if name.endswith("weight") else 0.0) + 0.1 * normal
    return module.eval().requires_grad_(False)


def network(kind: str, **config: Any) -> nn.Module:
    """A network of diffusers with random weights."""
    return redrawn(getattr(library(), kind)(**config))


# Milder than Stable Diffusion's, so that the x0 of a random eps network, which is of size 1/alpha, stays small.
BETAS = {"beta_start": 0.00085, "beta_end": 0.006, "beta_schedule": "scaled_linear"}


def scheduler(kind: str, **config: Any) -> Any:
    return getattr(library(), f"{kind}Scheduler")(**config)


def pipeline(kind: str, **parts: Any) -> Any:
    """The pipeline of these parts, silent."""
    pipe = getattr(library(), f"{kind}Pipeline")(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def normal(pipe: Any, *shape: int, seed: int) -> Tensor:
    """An embedding: the same numbers in every dtype."""
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(100 + seed), dtype=torch.float32)
    return drawn.to(pipe.dtype)


def uniform(pipe: Any, *shape: int, seed: int) -> Tensor:
    """A picture in [0, 1]."""
    drawn = torch.rand(*shape, generator=torch.Generator().manual_seed(200 + seed), dtype=torch.float32)
    return drawn.to(pipe.dtype)


def vae(channels: int = 4, levels: int = 2, **more: Any) -> nn.Module:
    """Each level but the first halves the picture's sides."""
    blocks = {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
    }
    size = {"block_out_channels": (4,) * (levels - 1) + (8,), "norm_num_groups": 2, "sample_size": 16}
    return network("AutoencoderKL", latent_channels=channels, **{**blocks, **size, **more})
