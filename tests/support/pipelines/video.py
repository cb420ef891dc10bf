"""Video pipelines around a transformer: Wan, LTX, HunyuanVideo, CogVideoX, Mochi, Latte, Sana-Video."""

from typing import Any

from torch import Tensor, nn

from .build import BETAS, network, normal, other, pipeline, scheduler, uniform, vae
from .case import BATCH, PipelineCase
from .prompts import NOISE, TEXT, TOKENS, masks, prompts

WIDTH = 16  # of a token of the text
FLOW_SIGMAS = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
STRETCHED = other("FlowMatchEulerDiscrete", use_dynamic_shifting=False, shift=5.0, shift_terminal=None)
FLOW = (STRETCHED, other("UniPCMultistep", **FLOW_SIGMAS), other("FlowMatchLCM"))
SIZE = {"height": 32, "width": 32}
NO_TEXT = {"text_encoder": None, "tokenizer": None}


def text(pipe: Any, **more: Any) -> dict[str, Any]:
    return prompts(pipe, TOKENS, WIDTH, **SIZE, **more)


def lengths() -> dict[str, Tensor]:
    return masks("prompt_attention_mask")


def wan_vae() -> nn.Module:
    moments: dict[str, Any] = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.0, 2.0, 1.5, 0.5]}
    return network(
        "AutoencoderKLWan", base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, **moments
    )


def wan_net(**more: Any) -> nn.Module:
    heads = {"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 1}
    sizes = {"in_channels": 4, "out_channels": 4, "text_dim": WIDTH, "freq_dim": 16, "ffn_dim": 24}
    return network("WanTransformer3DModel", **heads, **{**sizes, **more})


def wan(kind: str = "Wan", **parts: Any) -> Any:
    sampler = scheduler("UniPCMultistep", **FLOW_SIGMAS, flow_shift=3.0)
    return pipeline(
        kind, **NO_TEXT, **{"transformer": wan_net(), "vae": wan_vae(), "scheduler": sampler, **parts}
    )


def wan_image(pipe: Any, **more: Any) -> dict[str, Any]:
    """One image for the whole batch: the pipeline repeats it."""
    return text(pipe, image=uniform(pipe, 1, 3, 32, 32, seed=0), num_frames=5, **more)


def wan_case(name: str, build: Any, **more: Any) -> PipelineCase:
    given = {"call": lambda pipe: text(pipe, num_frames=5), "cond": TEXT, "shape": (4, 2, 4, 4), **more}
    flow = other("FlowMatchEulerDiscrete", shift=3.0)
    others = (flow, other("DPMSolverMultistep", **FLOW_SIGMAS), other("FlowMatchHeunDiscrete", shift=3.0))
    return PipelineCase(name=name, build=build, schedulers=others, **given)


WAN = (
    wan_case("wan", wan, note="The state is float32, whatever the weights are."),
    wan_case(
        "wan_2_2",
        lambda: wan(transformer_2=wan_net(), boundary_ratio=0.875),
        call=lambda pipe: text(pipe, num_frames=5, guidance_scale_2=2.0),
        note="Two networks with a scale each: the label says which.",
    ),
    wan_case(
        "wan_image",
        lambda: wan("WanImageToVideo", transformer=wan_net(in_channels=12)),
        call=wan_image,
        cond=(*TEXT, "image"),
        note="The image, encoded, stands beside the latents: it is given once and repeated over the batch.",
    ),
    wan_case(
        "wan_first_frame",
        lambda: wan("WanImageToVideo", expand_timesteps=True),
        call=wan_image,
        cond=(*TEXT, "image"),
        note="The first frame is the image in every call, and is put back after the loop; a label for every token.",
    ),
)


def ltx_vae() -> nn.Module:
    widths: dict[str, Any] = {
        "block_out_channels": (4, 4, 4, 4),
        "decoder_block_out_channels": (4, 4, 4, 4),
        "latent_channels": 4,
    }
    depths: dict[str, Any] = {"layers_per_block": (1,) * 5, "decoder_layers_per_block": (1,) * 5}
    return network("AutoencoderKLLTXVideo", **widths, **depths, patch_size=1, encoder_causal=True)


def ltx(kind: str = "LTX") -> Any:
    heads = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1}
    sizes = {"in_channels": 4, "out_channels": 4, "cross_attention_dim": 16, "caption_channels": WIDTH}
    sampler = scheduler("FlowMatchEulerDiscrete", use_dynamic_shifting=True, shift_terminal=0.1)
    net = network("LTXVideoTransformer3DModel", **heads, **sizes)
    return pipeline(kind, **NO_TEXT, transformer=net, vae=ltx_vae(), scheduler=sampler)


def hunyuan_vae() -> nn.Module:
    sizes = {
        "block_out_channels": (4, 4, 4, 4),
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 2,
    }
    return network("AutoencoderKLHunyuanVideo", **sizes, mid_block_add_attention=False)


def hunyuan() -> Any:
    heads = {"num_attention_heads": 2, "attention_head_dim": 8, "rope_axes_dim": (2, 2, 4), "patch_size": 2}
    depths = {"num_layers": 1, "num_single_layers": 1, "num_refiner_layers": 1}
    sizes = {"in_channels": 4, "out_channels": 4, "text_embed_dim": WIDTH, "pooled_projection_dim": 8}
    net = network("HunyuanVideoTransformer3DModel", **heads, **depths, **sizes)
    parts = {
        "transformer": net,
        "vae": hunyuan_vae(),
        "scheduler": scheduler("FlowMatchEulerDiscrete", shift=7.0),
    }
    return pipeline("HunyuanVideo", **NO_TEXT, text_encoder_2=None, tokenizer_2=None, **parts)


def hunyuan_call(pipe: Any) -> dict[str, Any]:
    pooled = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    vectors = {name: normal(pipe, BATCH, 8, seed=k) for k, name in enumerate(pooled, 2)}
    return text(pipe, num_frames=5, true_cfg_scale=2.0, **vectors, **lengths())


def cogvideox() -> Any:
    heads = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "time_embed_dim": 8}
    sizes = {"in_channels": 4, "out_channels": 4, "text_embed_dim": WIDTH, "max_text_seq_length": TOKENS}
    grid = {"sample_width": 4, "sample_height": 4, "sample_frames": 5}
    blocks = {
        "block_out_channels": (4, 4, 4, 4),
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 2,
    }
    zero_snr = {
        "prediction_type": "v_prediction",
        "timestep_spacing": "trailing",
        "rescale_betas_zero_snr": True,
    }
    parts = {"scheduler": scheduler("CogVideoXDDIM", **zero_snr, snr_shift_scale=1.0)}
    parts["transformer"] = network("CogVideoXTransformer3DModel", **heads, **sizes, **grid)
    return pipeline("CogVideoX", **NO_TEXT, **parts, vae=network("AutoencoderKLCogVideoX", **blocks))


def mochi() -> Any:
    heads = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "time_embed_dim": 8}
    text_sizes = {"text_embed_dim": WIDTH, "pooled_projection_dim": 8, "max_sequence_length": TOKENS}
    widths: dict[str, Any] = {
        "encoder_block_out_channels": (32,) * 4,
        "decoder_block_out_channels": (32,) * 4,
    }
    net = network("MochiTransformer3DModel", **heads, **text_sizes)
    decoder = network("AutoencoderKLMochi", **widths, layers_per_block=(1,) * 5)
    sampler = scheduler("FlowMatchEulerDiscrete", invert_sigmas=True)
    return pipeline("Mochi", **NO_TEXT, transformer=net, vae=decoder, scheduler=sampler)


def latte() -> Any:
    heads = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "cross_attention_dim": 16}
    sizes = {
        "in_channels": 4,
        "out_channels": 8,
        "caption_channels": WIDTH,
        "sample_size": 8,
        "patch_size": 2,
    }
    norms = {"norm_type": "ada_norm_single", "num_embeds_ada_norm": 1000, "norm_elementwise_affine": False}
    net = network("LatteTransformer3DModel", **heads, **sizes, **norms, attention_bias=True, video_length=2)
    sampler = scheduler("DDIM", **BETAS, clip_sample=False)
    return pipeline("Latte", **NO_TEXT, transformer=net, vae=vae(), scheduler=sampler)


def sana_video() -> Any:
    heads = {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "num_layers": 1,
        "num_cross_attention_heads": 2,
    }
    sizes = {"in_channels": 4, "out_channels": 4, "caption_channels": WIDTH, "cross_attention_head_dim": 12}
    net = network("SanaVideoTransformer3DModel", **heads, **sizes, cross_attention_dim=24)
    sampler = scheduler("DPMSolverMultistep", **FLOW_SIGMAS, flow_shift=3.0)
    return pipeline("SanaVideo", **NO_TEXT, transformer=net, vae=wan_vae(), scheduler=sampler)


LEFT_OUT = {
    "cosmos": "it wants a safety checker of a package that is not installed, and refuses to run without one"
}
CASES = (
    *WAN,
    PipelineCase(
        name="ltx",
        build=ltx,
        call=lambda pipe: text(pipe, num_frames=9, **lengths()),
        cond=TEXT,
        shape=(32, 4),
        schedulers=FLOW,
        note="Latents are packed tokens; times are shifted by the number that height, width and frames make.",
    ),
    PipelineCase(
        name="ltx_image",
        build=lambda: ltx("LTXImageToVideo"),
        call=lambda pipe: text(pipe, num_frames=9, **lengths()),
        cond=TEXT,
        shape=(32, 4),
        schedulers=FLOW,
        note="The latents hold the image as first frame: step is shown the other frames only, of another shape.",
    ),
    PipelineCase(
        name="hunyuan_video",
        build=hunyuan,
        call=hunyuan_call,
        cond=(*TEXT, "pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
        shape=(4, 2, 4, 4),
        schedulers=FLOW,
        note="The scale is an input of the network; true guidance by a second call.",
    ),
    PipelineCase(
        name="cogvideox",
        build=cogvideox,
        call=lambda pipe: text(pipe, num_frames=5, use_dynamic_cfg=True),
        cond=TEXT,
        shape=(2, 4, 4, 4),
        schedulers=(other("DDIM", clip_sample=False), other("CogVideoXDPM")),
        note="Frames before channels; with use_dynamic_cfg the scale depends on the label and the number of steps.",
    ),
    PipelineCase(
        name="mochi",
        build=mochi,
        call=lambda pipe: text(pipe, num_frames=7, **lengths()),
        cond=TEXT,
        shape=(12, 2, 4, 4),
        schedulers=(
            other("FlowMatchEulerDiscrete", stochastic_sampling=True),
            other("FlowMatchEulerDiscrete", shift=2.0),
        ),
        note="Time runs from 0 to 1 and the velocity's sign is its own; states and predictions go through float32.",
    ),
    PipelineCase(
        name="latte",
        build=latte,
        call=lambda pipe: prompts(
            pipe, TOKENS, WIDTH, video_length=2, negative_prompt=None, height=16, width=16
        ),
        cond=TEXT,
        shape=(4, 2, 8, 8),
        schedulers=NOISE,
        note="The network also says variances, which the pipeline cuts off.",
    ),
    PipelineCase(
        name="sana_video",
        build=sana_video,
        call=lambda pipe: text(
            pipe, frames=5, use_resolution_binning=False, negative_prompt=None, **lengths()
        ),
        cond=TEXT,
        shape=(4, 2, 4, 4),
        schedulers=(
            other("FlowMatchEulerDiscrete", shift=3.0),
            other("UniPCMultistep"),
            other("FlowMatchHeunDiscrete"),
        ),
        note="One batched call of both branches; states and predictions go through float32.",
    ),
)
