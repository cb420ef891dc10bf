"""Pipelines with their text encoders, told their prompts as text."""

from typing import Any

from .case import PipelineCase
from .flow import EULER, MULTISTEP, OTHERS, flux, sd3
from .sdxl import OTHERS as DIFFUSING
from .sdxl import POOLED, sdxl
from .stable_diffusion import stable_diffusion
from .text import clip_text, clip_tokens, t5_text, t5_tokens

PROMPTS = ["a red cat", "an owl at night"]
CALL = {"prompt": PROMPTS, "height": 16, "width": 16, "guidance_scale": 3.0}


def sd15_with_text() -> Any:
    return stable_diffusion(text_encoder=clip_text(), tokenizer=clip_tokens())


def sdxl_with_text() -> Any:
    """Texts of width 4 + 4, the second also pooled."""
    encoders: dict[str, Any] = {
        "text_encoder": clip_text(4),
        "text_encoder_2": clip_text(4, projection=POOLED),
    }
    return sdxl(**encoders, tokenizer=clip_tokens(), tokenizer_2=clip_tokens())


def sd3_with_text() -> Any:
    """CLIP texts of width 4 + 4, pooled to 2 + 4, before a T5 text of width 8."""
    clips = {"text_encoder": clip_text(4, projection=2), "text_encoder_2": clip_text(4, projection=4)}
    tokens = {"tokenizer": clip_tokens(), "tokenizer_2": clip_tokens(), "tokenizer_3": t5_tokens()}
    return sd3(**clips, **tokens, text_encoder_3=t5_text())


def flux_with_text() -> Any:
    """A CLIP text that is pooled and a T5 text."""
    encoders: dict[str, Any] = {"text_encoder": clip_text(POOLED), "text_encoder_2": t5_text()}
    return flux(**encoders, tokenizer=clip_tokens(), tokenizer_2=t5_tokens())


def case(name: str, build: Any, *, shape: tuple[int, ...], schedulers: Any, **more: Any) -> PipelineCase:
    """The same numbers at every call: prompts are no tensors, so that latents alone get a gradient."""
    return PipelineCase(
        name=name,
        build=build,
        call=lambda pipe: {**CALL, **more},
        cond=(),
        shape=shape,
        schedulers=schedulers,
    )


CASES = (
    case("sd15_text", sd15_with_text, shape=(4, 8, 8), schedulers=DIFFUSING, negative_prompt=["", "a dog"]),
    case("sdxl_text", sdxl_with_text, shape=(4, 8, 8), schedulers=DIFFUSING, negative_prompt="a dog"),
    case("sd3_text", sd3_with_text, shape=(4, 8, 8), schedulers=(EULER, *MULTISTEP), max_sequence_length=20),
    case("flux_text", flux_with_text, shape=(16, 16), schedulers=OTHERS, max_sequence_length=20),
)
