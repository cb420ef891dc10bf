"""Flow matching over images: SD3, Flux and its kin, Chroma, QwenImage."""

from typing import Any

import torch
from torch import nn

from .build import network, normal, other, pipeline, scheduler, uniform, vae
from .case import BATCH, PipelineCase, as_noised

WIDTH, TOKENS, POOLED = 8, 5, 6  # of a text
SHIFTED = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 2.0}
EULER = other("FlowMatchEulerDiscrete", shift=2.0, use_dynamic_shifting=False, use_karras_sigmas=True)
MULTISTEP = (
    other("DPMSolverMultistep", **SHIFTED, use_dynamic_shifting=False),
    other("UniPCMultistep", **SHIFTED, use_dynamic_shifting=False),
)
DYNAMIC_DPM = other("DPMSolverMultistep", **SHIFTED)
TERMINAL = other(
    "FlowMatchEulerDiscrete", time_shift_type="linear", shift_terminal=0.1, use_dynamic_shifting=True
)
UNIPC = MULTISTEP[1]
OTHERS = (EULER, TERMINAL, UNIPC)
EULERS = (
    EULER,
    TERMINAL,
    other("FlowMatchEulerDiscrete", shift=1.5, use_dynamic_shifting=False),
)  # with scale_noise
DYNAMIC = {"use_dynamic_shifting": True, "shift": 3.0, "base_image_seq_len": 4, "max_image_seq_len": 64}
HEADS = {"num_attention_heads": 2, "attention_head_dim": 8}


def sd3(kind: str = "StableDiffusion3", **parts: Any) -> Any:
    """A pipeline of SD3's; without text encoders unless they are among the parts."""
    sizes = {"sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 4, "pos_embed_max_size": 8}
    text = {"joint_attention_dim": WIDTH, "caption_projection_dim": 16, "pooled_projection_dim": POOLED}
    net = network("SD3Transformer2DModel", num_layers=3, qk_norm="rms_norm", **HEADS, **sizes, **text)
    names = ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")
    given = {name: None for name in names}
    given |= {"vae": vae(shift_factor=0.06), "scheduler": scheduler("FlowMatchEulerDiscrete", shift=3.0)}
    return pipeline(kind, **{**given, "transformer": net, **parts})


FLUX = {
    "joint_attention_dim": WIDTH,
    "axes_dims_rope": (2, 2, 4),
    "num_layers": 1,
    "num_single_layers": 1,
    **HEADS,
}


def flux_net(kind: str = "FluxTransformer2DModel", **more: Any) -> nn.Module:
    return network(
        kind, **{**FLUX, "in_channels": 16, "pooled_projection_dim": POOLED, "guidance_embeds": True, **more}
    )


def flux(kind: str = "Flux", net: nn.Module | None = None, **parts: Any) -> Any:
    """A pipeline of Flux's; without text encoders unless they are among the parts."""
    given = {name: None for name in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")}
    given |= {"vae": vae(shift_factor=0.06), "scheduler": scheduler("FlowMatchEulerDiscrete", **DYNAMIC)}
    return pipeline(kind, **{**given, "transformer": net or flux_net(), **parts})


def chroma() -> Any:
    more = {"approximator_num_channels": 8, "approximator_hidden_dim": 8, "approximator_layers": 1}
    net = network("ChromaTransformer2DModel", in_channels=16, **FLUX, **more)
    sampler = scheduler("FlowMatchEulerDiscrete", **DYNAMIC)
    return pipeline(
        "Chroma",
        vae=vae(shift_factor=0.06),
        transformer=net,
        scheduler=sampler,
        text_encoder=None,
        tokenizer=None,
    )


def qwen_image() -> Any:
    size = {
        "base_dim": 4,
        "z_dim": 4,
        "dim_mult": [1, 2],
        "num_res_blocks": 1,
        "temperal_downsample": [False],
    }
    moments = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.1, 0.9, 1.2, 1.0]}
    text = {"joint_attention_dim": WIDTH, "axes_dims_rope": (2, 2, 4), "out_channels": 4}
    return pipeline(
        "QwenImage",
        vae=network("AutoencoderKLQwenImage", **size, **moments),
        transformer=network("QwenImageTransformer2DModel", in_channels=16, num_layers=2, **text, **HEADS),
        scheduler=scheduler("FlowMatchEulerDiscrete", **DYNAMIC),
        text_encoder=None,
        tokenizer=None,
    )


def sized(pipe: Any) -> dict[str, Any]:
    texts = {"prompt_embeds": normal(pipe, BATCH, TOKENS, WIDTH, seed=0), "guidance_scale": 3.0}
    return {**texts, "height": 16, "width": 16}


def negative(pipe: Any) -> dict[str, Any]:
    return {**sized(pipe), "negative_prompt_embeds": normal(pipe, BATCH, TOKENS, WIDTH, seed=1)}


def pooled(pipe: Any) -> dict[str, Any]:
    return {**sized(pipe), "pooled_prompt_embeds": normal(pipe, BATCH, POOLED, seed=2)}


def both(pipe: Any) -> dict[str, Any]:
    """Two texts and their pooled forms."""
    return {
        **negative(pipe),
        **pooled(pipe),
        "negative_pooled_prompt_embeds": normal(pipe, BATCH, POOLED, seed=3),
    }


def picture(pipe: Any) -> Any:
    return uniform(pipe, BATCH, 3, 16, 16, seed=0)


def mask(pipe: Any) -> Any:
    """All but the first five columns is painted anew."""
    found = uniform(pipe, BATCH, 1, 16, 16, seed=1) * 0
    found[..., 5:] = 1
    return found


def masks(pipe: Any, name: str = "attention_mask", dtype: Any = int) -> dict[str, Any]:
    """Which tokens are text: all of the first sample, all but the last of the second."""
    found = torch.ones(BATCH, TOKENS, dtype=dtype)
    found[1, -1:] = 0
    return {f"prompt_{name}": found, f"negative_prompt_{name}": found.clone()}


TEXT = ("prompt_embeds", "negative_prompt_embeds")
POOL = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")
ONE = ("prompt_embeds", "pooled_prompt_embeds")
SLG = {"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.1, "skip_layer_guidance_stop": 0.7}


def case(name: str, build: Any, call: Any, cond: tuple[str, ...], **more: Any) -> PipelineCase:
    """Packed: 16 tokens, each of the four channels of a square of four latents."""
    given = {"shape": (16, 16), "schedulers": OTHERS, **more}
    return PipelineCase(name=name, build=build, call=call, cond=cond, **given)


CASES = (
    case(
        "sd3",
        sd3,
        both,
        (*TEXT, *POOL),
        shape=(4, 8, 8),
        schedulers=(other("FlowMatchHeunDiscrete"), *MULTISTEP),
    ),
    case(
        "sd3_skip_layers",
        sd3,
        lambda pipe: {**both(pipe), **SLG},
        (*TEXT, *POOL),
        shape=(4, 8, 8),
        schedulers=(EULER, *MULTISTEP),
        note="A third call without some layers in the second and third of four steps, by the loop's index.",
    ),
    case(
        "sd3_img2img",
        lambda: sd3("StableDiffusion3Img2Img"),
        lambda pipe: {**both(pipe), "image": picture(pipe), "strength": 0.75},
        (*TEXT, *POOL),
        shape=(4, 8, 8),
        schedulers=EULERS,
        enter=as_noised,
    ),
    case(
        "flux",
        flux,
        pooled,
        ONE,
        schedulers=(*OTHERS, DYNAMIC_DPM, other("FlowMatchLCM")),
        note="Packed latents; guidance_scale is an embedding; one call a step.",
    ),
    case(
        "flux_true_cfg",
        lambda: flux(net=flux_net(guidance_embeds=False)),
        lambda pipe: {**both(pipe), "true_cfg_scale": 2.0},
        (*TEXT, *POOL),
        note="Two calls a step.",
    ),
    case(
        "flux_img2img",
        lambda: flux("FluxImg2Img"),
        lambda pipe: {**pooled(pipe), "image": picture(pipe), "strength": 0.75},
        ONE,
        schedulers=EULERS,
        enter=as_noised,
    ),
    case(
        "flux_fill",
        lambda: flux("FluxFill", flux_net(in_channels=48, out_channels=16)),
        lambda pipe: {**pooled(pipe), "image": picture(pipe), "mask_image": mask(pipe)},
        (*ONE, "image"),
        note="Masked latents and mask are more channels of the network's input.",
    ),
    case(
        "flux_kontext",
        lambda: flux("FluxKontext"),
        lambda pipe: {**pooled(pipe), "image": picture(pipe), "max_area": 256, "_auto_resize": False},
        (*ONE, "image"),
        note="The picture's tokens follow those of the latents.",
    ),
    case(
        "flux_controlnet",
        lambda: flux("FluxControlNet", controlnet=flux_net("FluxControlNetModel")),
        lambda pipe: {
            **pooled(pipe),
            "control_image": picture(pipe),
            "control_guidance_start": 0.25,
            "control_guidance_end": 0.75,
        },
        (*ONE, "control_image"),
        note="Heard in the second and third of four steps, by the loop's index.",
    ),
    case(
        "chroma",
        chroma,
        lambda pipe: {**negative(pipe), **masks(pipe, dtype=pipe.dtype)},
        TEXT,
        note="Two calls a step; the mask has the dtype of the text and is added to the scores.",
    ),
    case(
        "qwen_image",
        qwen_image,
        lambda pipe: {
            **negative(pipe),
            **masks(pipe, "embeds_mask"),
            "true_cfg_scale": 2.0,
            "guidance_scale": None,
        },
        TEXT,
        note="Two calls a step, rescaled to the norm of the first; a VAE of videos with mean and std.",
    ),
)
