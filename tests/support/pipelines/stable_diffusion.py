"""Pipelines around the UNet of Stable Diffusion, and unconditional ones."""

from typing import Any

from torch import nn

from .build import BETAS, network, normal, other, pipeline, redrawn, scheduler, uniform, vae
from .case import BATCH, PipelineCase, as_draw, as_noised, by_last_step

WIDTH, TOKENS = 8, 5  # of a text
SD = {**BETAS, "set_alpha_to_one": False, "steps_offset": 1}
BLOCKS = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 4}
DOWN, UP = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
OTHERS = (
    other("DPMSolverMultistep", use_karras_sigmas=True),
    other("EulerDiscrete", timestep_spacing="trailing"),
    other("DDIM", clip_sample=False, timestep_spacing="trailing"),
)


def unet(**more: Any) -> nn.Module:
    """Two levels of 8 and 16 channels, attention to the text on the first."""
    sizes = {"sample_size": 8, "cross_attention_dim": WIDTH, "down_block_types": DOWN, "up_block_types": UP}
    return network("UNet2DConditionModel", **{**BLOCKS, **sizes, **more})


def stable_diffusion(
    kind: str = "StableDiffusion", sampler: Any = None, net: Any = None, **parts: Any
) -> Any:
    """A pipeline of Stable Diffusion's; without a text encoder unless it is among the parts."""
    given = {name: None for name in ("text_encoder", "tokenizer", "safety_checker", "feature_extractor")}
    given["scheduler"] = sampler or scheduler("PNDM", **SD, skip_prk_steps=True)
    return pipeline(
        kind, **{**given, "vae": vae(), "unet": unet(**net or {}), "requires_safety_checker": False, **parts}
    )


def unconditional(kind: str, sampler: str) -> Any:
    blocks = {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    net = network("UNet2DModel", sample_size=8, **BLOCKS, **blocks)
    return pipeline(kind, unet=net, scheduler=scheduler(sampler, **BETAS))


def controlnet(**more: Any) -> nn.Module:
    sizes = {
        "cross_attention_dim": WIDTH,
        "down_block_types": DOWN,
        "conditioning_embedding_out_channels": (4, 8),
    }
    return redrawn(network("ControlNetModel", **{**BLOCKS, **sizes, **more}), gain=1.5)


def with_ip_adapter() -> Any:
    """Weights as `load_ip_adapter` finds them in a file: four tokens of an image embedding of width 6."""
    from torch import ones, randn, zeros

    pipe = stable_diffusion()
    image = {"proj.weight": randn(4 * WIDTH, 6), "proj.bias": zeros(4 * WIDTH)}
    weights = {
        "image_proj": {**image, "norm.weight": ones(WIDTH), "norm.bias": zeros(WIDTH)},
        "ip_adapter": {},
    }
    attentions = [name for name in pipe.unet.attn_processors if "attn2" in name]
    for k, name in enumerate(attentions):
        width = 16 if name.startswith("mid") else 8
        for part in ("to_k_ip", "to_v_ip"):
            weights["ip_adapter"][f"{2 * k + 1}.{part}.weight"] = randn(width, WIDTH) / WIDTH**0.5
    pipe.unet._load_ip_adapter_weights([weights], low_cpu_mem_usage=False)
    pipe.unet.requires_grad_(False)
    return pipe


def prompts(pipe: Any) -> dict[str, Any]:
    return {
        "prompt_embeds": normal(pipe, BATCH, TOKENS, WIDTH, seed=0),
        "negative_prompt_embeds": normal(pipe, BATCH, TOKENS, WIDTH, seed=1),
        "guidance_scale": 3.0,
    }


def sized(pipe: Any) -> dict[str, Any]:
    return {**prompts(pipe), "height": 16, "width": 16}


def with_image(pipe: Any) -> dict[str, Any]:
    return {**prompts(pipe), "image": uniform(pipe, BATCH, 3, 16, 16, seed=0)}


def masked(pipe: Any) -> dict[str, Any]:
    """Everything but the first five columns is painted anew."""
    mask = uniform(pipe, BATCH, 1, 16, 16, seed=1) * 0
    mask[..., 5:] = 1
    return {**sized(pipe), **with_image(pipe), "mask_image": mask}


def windowed(pipe: Any) -> dict[str, Any]:
    """The ControlNet is heard in the second and third of four steps."""
    window = {"control_guidance_start": 0.25, "control_guidance_end": 0.75}
    return {**sized(pipe), **with_image(pipe), **window, "controlnet_conditioning_scale": 0.8}


TEXT = ("prompt_embeds", "negative_prompt_embeds")


def case(name: str, build: Any = stable_diffusion, **more: Any) -> PipelineCase:
    """Text, pictures of 16 x 16 pixels, latents of 4 x 8 x 8."""
    given = {"call": sized, "cond": TEXT, "shape": (4, 8, 8), "schedulers": OTHERS, **more}
    return PipelineCase(name=name, build=build, **given)


CASES = (
    case(
        "ddpm",
        lambda: unconditional("DDPM", "DDPM"),
        call=lambda pipe: {"batch_size": BATCH},
        cond=(),
        shape=(3, 8, 8),
        enter=as_draw,
        leave=by_last_step,
        note="No latents argument, pictures as numpy; clips and draws.",
    ),
    case(
        "ddim",
        lambda: unconditional("DDIM", "DDIM"),
        call=lambda pipe: {"batch_size": BATCH, "eta": 0.5},
        cond=(),
        shape=(3, 8, 8),
        schedulers=(
            other("DDIM", clip_sample=False),
            other("DDIM", timestep_spacing="trailing"),
            other("DDIM", prediction_type="sample"),
        ),
        enter=as_draw,
        leave=by_last_step,
        note="No latents argument; steps with eta and use_clipped_model_output, which DDIM alone takes.",
    ),
    case("sd15"),
    case(
        "sd2_v",
        lambda: stable_diffusion(
            sampler=scheduler("DDIM", **SD, clip_sample=False, prediction_type="v_prediction")
        ),
        call=lambda pipe: {**sized(pipe), "guidance_rescale": 0.7},
    ),
    case(
        "lcm",
        lambda: stable_diffusion("LatentConsistencyModel", scheduler("LCM", **SD), {"time_cond_proj_dim": 8}),
        call=lambda pipe: (
            {k: v for k, v in sized(pipe).items() if k != TEXT[1]} | {"original_inference_steps": 20}
        ),
        cond=TEXT[:1],
        schedulers=(
            other("LCM", prediction_type="sample"),
            other("LCM", prediction_type="v_prediction"),
            other("LCM", beta_schedule="linear"),
        ),
        note="guidance_scale goes into the network as an embedding; draws at every step but the last.",
    ),
    case(
        "sd_guidance_embedding",
        lambda: stable_diffusion(net={"time_cond_proj_dim": 8}),
        call=lambda pipe: {k: v for k, v in sized(pipe).items() if k != TEXT[1]},
        cond=TEXT[:1],
        note="guidance_scale goes into the network as an embedding, and there is no second prompt.",
    ),
    case(
        "sd_img2img",
        lambda: stable_diffusion("StableDiffusionImg2Img"),
        call=lambda pipe: {**with_image(pipe), "strength": 0.75},
        enter=as_noised,
        note="No latents argument; the first turns are left out.",
    ),
    case(
        "sd_inpaint",
        lambda: stable_diffusion("StableDiffusionInpaint", net={"in_channels": 9}),
        call=masked,
        cond=(*TEXT, "image"),
        note="Mask and masked latents are five more channels of the network's input.",
    ),
    case(
        "sd_inpaint_4",
        lambda: stable_diffusion("StableDiffusionInpaint"),
        call=masked,
        cond=(*TEXT, "image"),
        after_step=True,
        note="Puts the known part, noised by the start, back after every step.",
    ),
    case(
        "pix2pix",
        lambda: stable_diffusion("StableDiffusionInstructPix2Pix", net={"in_channels": 8}),
        call=lambda pipe: {**with_image(pipe), "image_guidance_scale": 1.5},
        cond=(*TEXT, "image"),
        note="Three branches in one call: text and image, image, none.",
    ),
    case(
        "controlnet",
        lambda: stable_diffusion("StableDiffusionControlNet", controlnet=controlnet()),
        call=windowed,
        cond=(*TEXT, "image"),
        note="Switched on and off by the loop's own index.",
    ),
    case(
        "ip_adapter",
        with_ip_adapter,
        call=lambda pipe: {**sized(pipe), "ip_adapter_image_embeds": [normal(pipe, 2 * BATCH, 1, 6, seed=2)]},
        cond=(*TEXT, "ip_adapter_image_embeds"),
        note="A list of tensors (negative, positive) along the batch.",
    ),
    case(
        "t2i_adapter",
        lambda: stable_diffusion(
            "StableDiffusionAdapter",
            adapter=network("T2IAdapter", channels=[8, 16], num_res_blocks=1, downscale_factor=2),
        ),
        call=lambda pipe: {**sized(pipe), **with_image(pipe)},
        cond=(*TEXT, "image"),
        note="The adapter is run once, before the loop.",
    ),
    case(
        "pag",
        lambda: stable_diffusion("StableDiffusionPAG", pag_applied_layers=["mid"]),
        call=lambda pipe: {**sized(pipe), "pag_scale": 2.0, "pag_adaptive_scale": 0.001},
        note="Sets its attention processors for the time of the call; three branches; its scale depends upon t.",
    ),
)
