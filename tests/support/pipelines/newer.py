"""Further families, to see how far a test's list may grow by one line: upscalers, Flux 2, Z-Image, PRX, Kandinsky 3."""

from typing import Any

from .build import BETAS, fresh, network, other, pipeline, scheduler, uniform, vae
from .case import BATCH, PipelineCase, as_noised, by_last_step
from .dit import LINEAR, NO_TEXT, flowing, masked
from .flow import (
    DYNAMIC,
    EULER,
    EULERS,
    HEADS,
    MULTISTEP,
    ONE,
    POOL,
    POOLED,
    TEXT,
    WIDTH,
    both,
    flux,
    flux_net,
    mask,
    masks,
    negative,
    picture,
    pooled,
    sd3,
)
from .flow import OTHERS as FLOWING
from .stable_diffusion import BLOCKS, OTHERS, SD, controlnet, stable_diffusion, unet, windowed, with_image

LOW = {name: None for name in ("safety_checker", "feature_extractor")}


def upscaler() -> Any:
    """Four times the size: the small picture, noised, is more channels of the input, its noise level a class."""
    net = unet(in_channels=7, num_class_embeds=1000)
    low = scheduler("DDPM", **BETAS)
    sampler = scheduler("DDIM", **SD, clip_sample=False)
    parts = {"unet": net, "vae": vae(), "low_res_scheduler": low, "scheduler": sampler, **NO_TEXT, **LOW}
    return pipeline("StableDiffusionUpscale", **parts, watermarker=None, max_noise_level=350)


def depth() -> Any:
    sampler = scheduler("PNDM", **SD, skip_prk_steps=True)
    parts = {"unet": unet(in_channels=5), "vae": vae(), "scheduler": sampler, "feature_extractor": None}
    return pipeline("StableDiffusionDepth2Img", **parts, **NO_TEXT, depth_estimator=None)


def latent_upscaler() -> Any:
    net = unet(in_channels=8, out_channels=5, time_cond_proj_dim=128 + POOLED)
    sampler = scheduler("EulerDiscrete", **BETAS, prediction_type="sample")
    return pipeline("StableDiffusionLatentUpscale", unet=net, vae=vae(), scheduler=sampler, **NO_TEXT)


def sd3_controlnet() -> Any:
    sizes = {"sample_size": 8, "patch_size": 2, "in_channels": 4, "pos_embed_max_size": 8, "num_layers": 1}
    text = {"joint_attention_dim": WIDTH, "caption_projection_dim": 16, "pooled_projection_dim": POOLED}
    return sd3(
        "StableDiffusion3ControlNet", controlnet=network("SD3ControlNetModel", **sizes, **HEADS, **text)
    )


def flux2(kind: str = "Flux2", guided: bool = True, **parts: Any) -> Any:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    sizes = {"block_out_channels": (4, 8), "norm_num_groups": 2, "latent_channels": 4}
    text = {"joint_attention_dim": WIDTH, "axes_dims_rope": (2, 2, 2, 2), "timestep_guidance_channels": 8}
    depth = {"num_layers": 1, "num_single_layers": 1, "guidance_embeds": guided}
    return pipeline(
        kind,
        vae=network("AutoencoderKLFlux2", **sizes, **blocks),
        transformer=network("Flux2Transformer2DModel", in_channels=16, **text, **depth, **HEADS),
        scheduler=scheduler("FlowMatchEulerDiscrete", **DYNAMIC),
        **NO_TEXT,
        **parts,
    )


def z_image() -> Any:
    size = {
        "dim": 16,
        "n_layers": 1,
        "n_refiner_layers": 1,
        "n_heads": 2,
        "n_kv_heads": 2,
        "cap_feat_dim": WIDTH,
    }
    rope: dict[str, Any] = {"axes_dims": [4, 2, 2], "axes_lens": [64, 16, 16]}
    return flowing("ZImage", "ZImageTransformer2DModel", in_channels=4, shift=3.0, **size, **rope)


def prx() -> Any:
    size = {"hidden_size": 16, "num_heads": 2, "depth": 2, "context_in_dim": WIDTH, "axes_dim": [4, 4]}
    return flowing("PRX", "PRXTransformer2DModel", in_channels=4, patch_size=2, shift=3.0, **size)


def kandinsky3() -> Any:
    size = {"block_out_channels": (8, 16), "groups": 4, "attention_head_dim": 4, "layers_per_block": 2}
    text = {"time_embedding_dim": 8, "cross_attention_dim": WIDTH, "encoder_hid_dim": WIDTH}
    return pipeline(
        "Kandinsky3",
        unet=network("Kandinsky3UNet", **size, **text),
        scheduler=scheduler("DDPM", **LINEAR, clip_sample=False),
        movq=vae(),
        **NO_TEXT,
    )


def consistency() -> Any:
    blocks = {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    net = network("UNet2DModel", sample_size=8, num_class_embeds=10, **BLOCKS, **blocks)
    return pipeline("ConsistencyModel", unet=net, scheduler=scheduler("CMStochasticIterative", sigma_max=8.0))


def separate(pipe: Any) -> dict[str, Any]:
    """Each sample's text is a tensor of its own in a list."""
    call = negative(pipe)
    return {**call, **{name: [one.clone() for one in call[name]] for name in TEXT}}


def attended(pipe: Any) -> dict[str, Any]:
    """With masks, named as in Kandinsky 3."""
    found = masks(pipe)
    given = {name.replace("prompt_", ""): one for name, one in found.items()}
    return {**negative(pipe), **given}


def case(name: str, build: Any, call: Any, cond: tuple[str, ...] = TEXT, **more: Any) -> PipelineCase:
    given = {"shape": (4, 8, 8), "schedulers": OTHERS, **more}
    return PipelineCase(name=name, build=build, call=call, cond=cond, **given)


CASES = (
    case(
        "consistency",
        consistency,
        lambda pipe: {"batch_size": BATCH, "class_labels": [3, 7]},
        (),
        shape=(3, 8, 8),
        schedulers=(
            other("CMStochasticIterative", sigma_max=4.0),
            fresh("EulerDiscrete", prediction_type="sample"),
            fresh("EulerAncestralDiscrete"),
        ),
        leave=by_last_step,
        note="Hands pictures out only.",
    ),
    case(
        "controlnets_img2img",
        lambda: stable_diffusion("StableDiffusionControlNetImg2Img", controlnet=[controlnet(), controlnet()]),
        lambda pipe: {
            **with_image(pipe),
            "control_image": [uniform(pipe, BATCH, 3, 16, 16, seed=k) for k in (3, 4)],
            "strength": 0.75,
            "control_guidance_end": [0.4, 1.0],
        },
        (*TEXT, "control_image"),
        enter=as_noised,
        note="Two ControlNets, each with its window; the loop's index counts from the first turn that is played.",
    ),
    case(
        "sd_depth",
        depth,
        lambda pipe: {**with_image(pipe), "strength": 0.75, "depth_map": uniform(pipe, BATCH, 8, 8, seed=3)},
        (*TEXT, "depth_map"),
        enter=as_noised,
        note="No latents argument; the depth, stretched to [-1, 1], is a channel of the network's input.",
    ),
    case(
        "sd_upscale",
        upscaler,
        lambda pipe: {
            **{name: given for name, given in windowed(pipe).items() if name in (*TEXT, "guidance_scale")},
            "image": uniform(pipe, BATCH, 3, 8, 8, seed=0),
        },
        (*TEXT, "image"),
        note="Draws the noise on the small picture before the loop.",
    ),
    case(
        "sd_latent_upscale",
        latent_upscaler,
        lambda pipe: {
            **{name: given for name, given in both(pipe).items() if name not in ("height", "width")},
            "image": uniform(pipe, BATCH, 4, 4, 4, seed=0),
        },
        (*TEXT, *POOL, "image"),
        schedulers=(*OTHERS[:2], other("HeunDiscrete")),
        note="Reads scheduler.sigmas by the loop's index, and has scale_model_input scale a sigma.",
    ),
    case(
        "sd3_controlnet",
        sd3_controlnet,
        lambda pipe: {
            **both(pipe),
            "control_image": picture(pipe),
            "control_guidance_start": 0.25,
            "control_guidance_end": 0.75,
        },
        (*TEXT, *POOL, "control_image"),
        schedulers=(EULER, *MULTISTEP),
    ),
    case(
        "flux_control",
        lambda: flux("FluxControl", flux_net(in_channels=32, out_channels=16)),
        lambda pipe: {**pooled(pipe), "control_image": picture(pipe)},
        (*ONE, "control_image"),
        shape=(16, 16),
        schedulers=FLOWING,
    ),
    case(
        "flux_inpaint",
        lambda: flux("FluxInpaint"),
        lambda pipe: {**pooled(pipe), "image": picture(pipe), "mask_image": mask(pipe), "strength": 0.75},
        (*ONE, "image"),
        shape=(16, 16),
        schedulers=EULERS,
        enter=as_noised,
        after_step=True,
    ),
    case(
        "flux2",
        flux2,
        lambda pipe: {name: given for name, given in negative(pipe).items() if name != TEXT[1]},
        TEXT[:1],
        shape=(16, 4, 4),
        schedulers=FLOWING,
        note="Takes latents unpacked, steps and hands out packed ones.",
    ),
    case(
        "flux2_klein",
        lambda: flux2("Flux2Klein", False, is_distilled=False),
        negative,
        shape=(16, 4, 4),
        schedulers=FLOWING,
        leave=by_last_step,
        note="Takes latents unpacked, steps packed ones, and hands them out scaled and unpatched.",
    ),
    case(
        "z_image",
        z_image,
        separate,
        schedulers=EULERS,
        note="Lists of texts; float32 latents whatever the weights.",
    ),
    case(
        "prx",
        prx,
        lambda pipe: {**masked(pipe), "guidance_scale": 1.0, "use_resolution_binning": False},
        TEXT[:1],
        schedulers=(EULER, *MULTISTEP),
        note="With guidance it takes one sample only: its label is repeated twice, whatever the batch.",
    ),
    case(
        "kandinsky3",
        kandinsky3,
        attended,
        TEXT[1:],
        note="Its encode_prompt, which a given text goes through, is under no_grad.",
    ),
)
