"""What pipelines of video, audio and cascades are told: texts, their lengths, an image; schedulers for noise."""

from typing import Any

import torch
from torch import Tensor, nn

from .build import normal, other, redrawn
from .case import BATCH

TOKENS = 5
TEXT = ("prompt_embeds", "negative_prompt_embeds")
NOISE = (
    other("DPMSolverMultistep", timestep_spacing="leading"),
    other("EulerDiscrete", timestep_spacing="leading", use_karras_sigmas=True),
    other("DEISMultistep", timestep_spacing="leading"),
)


def prompts(pipe: Any, *shape: int, **more: Any) -> dict[str, Any]:
    """Both texts, each sample of this shape, and a guidance scale."""
    embeds = {name: normal(pipe, BATCH, *shape, seed=k) for k, name in enumerate(TEXT)}
    return {**embeds, "guidance_scale": 2.0, **more}


def masks(ending: str = "attention_mask") -> dict[str, Tensor]:
    """Of texts of different lengths, and of the empty one."""
    mask = torch.ones(BATCH, TOKENS, dtype=torch.long)
    mask[1, -2:] = 0
    return {ending: mask, f"negative_{ending}": torch.ones_like(mask)}


def clip_vision(projection: int) -> nn.Module:
    """An image encoder for 8 x 8 pixels."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    sizes: dict[str, Any] = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
    }
    config = CLIPVisionConfig(**sizes, projection_dim=projection, image_size=8, patch_size=4)
    return redrawn(CLIPVisionModelWithProjection(config))
