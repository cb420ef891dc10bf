"""Diffusion transformers over unpacked latents: DiT, PixArt, Hunyuan, Lumina, AuraFlow, Sana, CogView."""

from typing import Any

from .build import BETAS, network, normal, other, pipeline, scheduler, vae
from .case import BATCH, PipelineCase, as_draw, by_last_step
from .flow import EULER, EULERS, HEADS, MULTISTEP, TEXT, TOKENS, WIDTH, masks, negative
from .flow import OTHERS as FLOWING
from .stable_diffusion import OTHERS

NO_TEXT = {"text_encoder": None, "tokenizer": None}
SQUARE = {"sample_size": 8, "patch_size": 2, "in_channels": 4}
LINEAR = {**BETAS, "beta_schedule": "linear"}


def dit() -> Any:
    net = network("DiTTransformer2DModel", num_layers=2, norm_num_groups=4, out_channels=8, **SQUARE, **HEADS)
    sampler = scheduler("DDIM", **LINEAR, clip_sample=False)
    return pipeline("DiT", transformer=net, vae=vae(), scheduler=sampler)


def pixart(kind: str) -> Any:
    """PixArt-alpha tells its network the sizes of the picture where that was made for 128 x 128 latents."""
    told = kind == "PixArtAlpha"
    size = {**SQUARE, "sample_size": 128 if told else 8, "num_attention_heads": 2, "attention_head_dim": 12}
    text = {"caption_channels": WIDTH, "cross_attention_dim": 24, "use_additional_conditions": told}
    net = network("PixArtTransformer2DModel", num_layers=2, **size, **text)
    sampler = scheduler("DPMSolverMultistep", **LINEAR)
    return pipeline(kind, vae=vae(), transformer=net, scheduler=sampler, **NO_TEXT)


def hunyuan() -> Any:
    text = {"cross_attention_dim": WIDTH, "cross_attention_dim_t5": WIDTH, "pooled_projection_dim": 4}
    lengths = {"text_len": TOKENS, "text_len_t5": TOKENS, "use_style_cond_and_image_meta_size": True}
    size = {"hidden_size": 16, "num_layers": 2, "activation_fn": "gelu-approximate"}
    net = network("HunyuanDiT2DModel", **SQUARE, **HEADS, **text, **lengths, **size)
    sampler = scheduler("DDPM", **BETAS, prediction_type="v_prediction", clip_sample=False)
    none = {name: None for name in ("safety_checker", "feature_extractor", "text_encoder_2", "tokenizer_2")}
    parts = {"vae": vae(levels=4), "transformer": net, "scheduler": sampler, **NO_TEXT, **none}
    return pipeline("HunyuanDiT", **parts, requires_safety_checker=False)


def flowing(kind: str, net: str, *, levels: int = 2, shift: float = 1.0, **config: Any) -> Any:
    """A flow-matching pipeline of one text encoder, which is left out, and one network."""
    sampler = scheduler("FlowMatchEulerDiscrete", shift=shift)
    parts = {"vae": vae(levels=levels, shift_factor=0.06), "transformer": network(net, **config)}
    return pipeline(kind, scheduler=sampler, **parts, **NO_TEXT)


def lumina(kind: str, net: str, **config: Any) -> Any:
    size = {"hidden_size": 16, "num_layers": 2, "num_attention_heads": 2, "num_kv_heads": 1, "multiple_of": 8}
    return flowing(kind, net, levels=4, **SQUARE, **size, **config)


def aura() -> Any:
    text = {"joint_attention_dim": WIDTH, "caption_projection_dim": 16, "pos_embed_max_size": 16}
    size = {"num_mmdit_layers": 1, "num_single_dit_layers": 1, "out_channels": 4}
    return flowing("AuraFlow", "AuraFlowTransformer2DModel", shift=1.73, **SQUARE, **HEADS, **text, **size)


def sana() -> Any:
    text = {"caption_channels": WIDTH, "num_cross_attention_heads": 2, "cross_attention_head_dim": 8}
    size = {**SQUARE, "patch_size": 1, "out_channels": 4, "num_layers": 2, "cross_attention_dim": 16}
    net = network("SanaTransformer2DModel", **HEADS, **size, **text)
    blocks = {f"{part}_block_out_channels": (4, 4, 8) for part in ("encoder", "decoder")}
    depth = {f"{part}_layers_per_block": (1, 1, 1) for part in ("encoder", "decoder")}
    attend = {f"{part}_qkv_multiscales": ((), (), (5,)) for part in ("encoder", "decoder")}
    return pipeline(
        "Sana",
        vae=network(
            "AutoencoderDC",
            latent_channels=4,
            scaling_factor=0.41,
            attention_head_dim=2,
            **blocks,
            **depth,
            **attend,
        ),
        transformer=net,
        scheduler=scheduler("FlowMatchEulerDiscrete", shift=3.0),
        **NO_TEXT,
    )


def cogview4() -> Any:
    text = {"text_embed_dim": WIDTH, "time_embed_dim": 8, "condition_dim": 4, "rope_axes_dim": (8, 8)}
    return flowing(
        "CogView4", "CogView4Transformer2DModel", out_channels=4, num_layers=2, **SQUARE, **HEADS, **text
    )


def cogview3() -> Any:
    text = {"text_embed_dim": WIDTH, "time_embed_dim": 8, "condition_dim": 4, "pos_embed_max_size": 8}
    net = network("CogView3PlusTransformer2DModel", out_channels=4, num_layers=2, **SQUARE, **HEADS, **text)
    zero = {"set_alpha_to_one": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    sampler = scheduler("CogVideoXDDIM", **BETAS, rescale_betas_zero_snr=True, clip_sample=False, **zero)
    return pipeline("CogView3Plus", vae=vae(), transformer=net, scheduler=sampler, **NO_TEXT)


def masked(pipe: Any) -> dict[str, Any]:
    return {**negative(pipe), **masks(pipe)}


def unbinned(pipe: Any) -> dict[str, Any]:
    """At the asked size, not at the nearest of the training."""
    return {**masked(pipe), "negative_prompt": None, "use_resolution_binning": False}


def larger(pipe: Any) -> dict[str, Any]:
    """The pipeline takes its VAE for one of scale 8."""
    return {**masked(pipe), "height": 64, "width": 64}


def twice(pipe: Any) -> dict[str, Any]:
    """Two text encoders, each with its mask, and the sizes of the picture."""
    call = {**larger(pipe), "use_resolution_binning": False}
    second = {f"{name}_2": normal(pipe, BATCH, TOKENS, WIDTH, seed=4 + k) for k, name in enumerate(TEXT)}
    return {**call, **second, **{f"{name}_2": given.clone() for name, given in masks(pipe).items()}}


def case(name: str, build: Any, call: Any = masked, **more: Any) -> PipelineCase:
    given = {"cond": TEXT, "shape": (4, 8, 8), "schedulers": FLOWING, **more}
    return PipelineCase(name=name, build=build, call=call, **given)


CASES = (
    case(
        "dit",
        dit,
        lambda pipe: {"class_labels": [3, 7], "guidance_scale": 3.0},
        cond=(),
        schedulers=OTHERS,
        enter=as_draw,
        leave=lambda pipe, loop: by_last_step(pipe, loop)[:BATCH],
        note="No latents argument, pictures only; its state is doubled for guidance, the second half is never used.",
    ),
    case(
        "pixart_alpha",
        lambda: pixart("PixArtAlpha"),
        unbinned,
        schedulers=OTHERS,
        note="Tells its network the sizes where that was made for 128 x 128 latents.",
    ),
    case("pixart_sigma", lambda: pixart("PixArtSigma"), unbinned, schedulers=OTHERS),
    case(
        "hunyuan_dit",
        hunyuan,
        twice,
        cond=(*TEXT, *(f"{name}_2" for name in TEXT)),
        schedulers=OTHERS,
        note="The label is cast to the latents' dtype; DDPM draws at every step.",
    ),
    case(
        "lumina",
        lambda: lumina("Lumina", "LuminaNextDiT2DModel", cross_attention_dim=WIDTH, qk_norm=True),
        larger,
        schedulers=(EULER, *MULTISTEP),
        note="The network is told 1 - t/1000.",
    ),
    case(
        "lumina2",
        lambda: lumina(
            "Lumina2",
            "Lumina2Transformer2DModel",
            cap_feat_dim=WIDTH,
            axes_dim_rope=(4, 2, 2),
            axes_lens=(16, 16, 16),
        ),
        lambda pipe: {**larger(pipe), "cfg_trunc_ratio": 0.5},
        note="Told 1 - t/1000; steps with the negative of the answer; guidance in the first half, by the loop's index.",
    ),
    case("aura_flow", aura, schedulers=(EULER, *MULTISTEP)),
    case(
        "sana",
        sana,
        lambda pipe: {**unbinned(pipe), "height": 32, "width": 32},
        schedulers=(EULER, *MULTISTEP),
    ),
    case("cogview4", cogview4, negative, schedulers=EULERS),
    case(
        "cogview3_plus",
        cogview3,
        negative,
        cond=TEXT[:1],
        schedulers=(*OTHERS[1:], other("DPMSolverMultistep", timestep_spacing="trailing")),
        note="Puts zeros for a negative text that is given; rounds the answer to float32.",
    ),
)
