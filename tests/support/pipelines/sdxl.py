"""Pipelines around the UNet of Stable Diffusion XL, which is told pooled text and the sizes of the picture."""

from typing import Any

from torch import nn

from .build import BETAS, normal, pipeline, scheduler, vae
from .case import BATCH, PipelineCase, as_image, as_noised
from .stable_diffusion import OTHERS, controlnet, masked, sized, unet, windowed, with_image

POOLED = 6
ADDED = {"addition_embed_type": "text_time", "addition_time_embed_dim": 2, "use_linear_projection": True}
TEXT = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")


def added(ids: int = 6) -> dict[str, Any]:
    """Arguments of a network that hears of the pooled text and of so many numbers of sizes, crops or scores."""
    return {**ADDED, "projection_class_embeddings_input_dim": 2 * ids + POOLED}


def sdxl(kind: str = "StableDiffusionXL", net: nn.Module | None = None, **parts: Any) -> Any:
    """A pipeline of SDXL's; without text encoders unless they are among the parts."""
    given = {name: None for name in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")}
    given |= {"vae": vae(scaling_factor=0.13025), "unet": net or unet(**added()), "add_watermarker": False}
    given["scheduler"] = scheduler("EulerDiscrete", **BETAS, steps_offset=1, timestep_spacing="leading")
    return pipeline(kind, **{**given, **parts})


def pooled(pipe: Any) -> dict[str, Any]:
    seeds = {name: 10 + k for k, name in enumerate(TEXT[2:])}
    return {name: normal(pipe, BATCH, POOLED, seed=seed) for name, seed in seeds.items()}


def case(name: str, build: Any = sdxl, call: Any = sized, **more: Any) -> PipelineCase:
    given = {"cond": TEXT, "shape": (4, 8, 8), "schedulers": OTHERS, **more}
    return PipelineCase(name=name, build=build, call=lambda pipe: {**call(pipe), **pooled(pipe)}, **given)


INPAINT = "StableDiffusionXLInpaint"

CASES = (
    case(
        "sdxl",
        call=lambda pipe: {**sized(pipe), "original_size": (32, 24), "crops_coords_top_left": (2, 4)},
        note="The sizes are numbers of the whole call, the pooled texts have a batch.",
    ),
    case(
        "sdxl_base_part",
        call=lambda pipe: {**sized(pipe), "denoising_end": 0.6},
        note="Stops early: the last latents are noisy.",
    ),
    case(
        "sdxl_img2img",
        lambda: sdxl("StableDiffusionXLImg2Img"),
        call=lambda pipe: {**with_image(pipe), "strength": 0.75},
        enter=as_noised,
        note="Takes latents and never looks at them; the first turns are left out.",
    ),
    case(
        "sdxl_refiner",
        lambda: sdxl("StableDiffusionXLImg2Img", unet(**added(5)), requires_aesthetics_score=True),
        call=lambda pipe: {**with_image(pipe), "denoising_start": 0.5},
        enter=as_image,
        note="The other half of a denoising_end; two scores in place of a size.",
    ),
    case(
        "sdxl_inpaint",
        lambda: sdxl(INPAINT, unet(**added(), in_channels=9)),
        call=lambda pipe: {**masked(pipe), "strength": 1.0},
        cond=(*TEXT, "image"),
    ),
    case(
        "sdxl_inpaint_4",
        lambda: sdxl(INPAINT),
        call=lambda pipe: {**masked(pipe), "strength": 1.0},
        cond=(*TEXT, "image"),
        after_step=True,
        note="Puts the known part, noised by the start, back after every step.",
    ),
    case(
        "sdxl_controlnet",
        lambda: sdxl("StableDiffusionXLControlNet", controlnet=controlnet(**added())),
        call=windowed,
        cond=(*TEXT, "image"),
        note="Switched on and off by the loop's own index.",
    ),
    case(
        "sdxl_pag",
        lambda: sdxl("StableDiffusionXLPAG", pag_applied_layers=["mid"]),
        call=lambda pipe: {**sized(pipe), "pag_scale": 2.0},
    ),
)
