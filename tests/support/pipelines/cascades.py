"""Pipelines of which one feeds the next: Wuerstchen's and Kandinsky's priors, Wuerstchen's decoder, DeepFloyd IF."""

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from torch import Tensor, nn

from .build import network, normal, other, pipeline, redrawn, scheduler, uniform
from .case import BATCH, PipelineCase
from .prompts import TEXT, TOKENS, clip_vision, prompts
from .text import clip_text, clip_tokens

WIDTH = 8  # of a token of the text
PROMPTS = ["a cat", "dogs"]
LEFT_OUT = {"unclip": "three loops with three schedulers in one call, and pictures as numpy at the end"}


@contextmanager
def as_first_draw(pipe: Any, latents: Tensor) -> Iterator[dict[str, Any]]:
    """The pipeline takes no latents: the first tensor that its module draws is `latents`, others are drawn."""
    module, waiting = sys.modules[type(pipe).__module__], [latents]
    draw = module.randn_tensor

    def drawn(*shape: Any, **how: Any) -> Tensor:
        return waiting.pop() if waiting else draw(*shape, **how)

    with mock.patch.object(module, "randn_tensor", drawn):
        yield {}


def as_tensor(pipe: Any, loop: Callable[..., Any]) -> Tensor:
    """What the pipeline hands out as a tensor is the last state: a picture, an embedding."""
    return loop(output_type="pt", return_dict=False)[0]


@contextmanager
def as_first_draw_told(pipe: Any, latents: Tensor) -> Iterator[dict[str, Any]]:
    """The same, where `encode_prompt` stands under a `no_grad` of its own that would cut the embeddings off."""
    encode = functools.partial(inspect.unwrap(type(pipe).encode_prompt), pipe)
    with mock.patch.object(pipe, "encode_prompt", encode), as_first_draw(pipe, latents) as entered:
        yield entered


def calm(network: nn.Module, last: Any) -> nn.Module:
    """Its answer is (x - a) / |1 - b|: b stays away from one."""
    for weight in last.parameters():
        weight.data.mul_(0.2)
    return network


def wuerstchen_prior() -> Any:
    from diffusers.pipelines.deprecated.wuerstchen.modeling_wuerstchen_prior import WuerstchenPrior

    net = redrawn(WuerstchenPrior(c_in=4, c=8, c_cond=WIDTH, c_r=8, depth=1, nhead=2, dropout=0.0))
    speaks = {"tokenizer": None, "text_encoder": clip_text(WIDTH)}
    moments = {"latent_mean": 2.0, "latent_std": 1.0, "resolution_multiple": 2.0}
    return pipeline(
        "WuerstchenPrior",
        prior=calm(net, net.out),
        scheduler=scheduler("DDPMWuerstchen"),
        **speaks,
        **moments,
    )


def wuerstchen_decoder() -> Any:
    from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel
    from diffusers.pipelines.deprecated.wuerstchen.modeling_wuerstchen_diffnext import WuerstchenDiffNeXt

    levels = {"c_hidden": [8, 8], "nhead": [-1, 2], "blocks": [1, 1], "level_config": ["CT", "CTA"]}
    told = {"inject_effnet": [False, True], "effnet_embd": 4, "clip_embd": WIDTH, "c_cond": 8, "c_r": 8}
    shapes = {"levels": 2, "bottleneck_blocks": 1, "embed_dim": 8, "num_vq_embeddings": 8}
    net = redrawn(WuerstchenDiffNeXt(**levels, **told, dropout=0.0))
    parts = {
        "decoder": calm(net, net.clf),
        "vqgan": redrawn(PaellaVQModel(**shapes)),
        "scheduler": scheduler("DDPMWuerstchen"),
    }
    speaks = {"tokenizer": clip_tokens(), "text_encoder": clip_text(WIDTH)}
    return pipeline("WuerstchenDecoder", **parts, **speaks, latent_dim_scale=2.0)


def wuerstchen_decoder_call(pipe: Any) -> dict[str, Any]:
    embeddings = normal(pipe, BATCH, 4, 4, 4, seed=2)
    return {"prompt": PROMPTS[0], "image_embeddings": embeddings, "guidance_scale": 2.0}


def kandinsky_prior() -> Any:
    heads = {"num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 3}
    prior = redrawn(network("PriorTransformer", **heads, embedding_dim=WIDTH, num_embeddings=6), 2.0)
    sampler = scheduler(
        "UnCLIP", variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0
    )
    speaks = {"tokenizer": clip_tokens(6), "text_encoder": clip_text(WIDTH, projection=WIDTH, length=6)}
    sees = {"image_encoder": clip_vision(WIDTH), "image_processor": None}
    return pipeline("KandinskyV22Prior", prior=prior, scheduler=sampler, **speaks, **sees)


def deepfloyd(kind: str, in_channels: int, **more: Any) -> Any:
    blocks = {
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 4,
    }
    types: dict[str, Any] = {
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "cross_attention_norm": "group_norm",
        "resnet_time_scale_shift": "scale_shift",
    }
    told: dict[str, Any] = {
        "encoder_hid_dim": WIDTH,
        "cross_attention_dim": 32,
        "addition_embed_type": "text",
    }
    given = {
        "in_channels": in_channels,
        "out_channels": 6,
        "sample_size": 8,
        "addition_embed_type_num_heads": 2,
    }
    label: dict[str, Any] = {"class_embed_type": "timestep"} if in_channels == 6 else {}
    unet = network("UNet2DConditionModel", **blocks, **types, **told, **given, **label)
    clips = {"thresholding": True, "sample_max_value": 1.5, "variance_type": "learned_range"}
    sampler = scheduler("DDPM", beta_schedule="squaredcos_cap_v2", **clips)
    none = {
        name: None
        for name in ("tokenizer", "text_encoder", "safety_checker", "feature_extractor", "watermarker")
    }
    return pipeline(kind, unet=unet, scheduler=sampler, **none, **more, requires_safety_checker=False)


PLAIN = {"thresholding": False, "clip_sample": False}
IF_OTHERS = (
    other("DDPM", **PLAIN),
    other("DDPM", **PLAIN, variance_type="fixed_small"),
    other("DPMSolverMultistep"),
)
CASES = (
    PipelineCase(
        name="wuerstchen_prior",
        build=wuerstchen_prior,
        call=lambda pipe: prompts(pipe, TOKENS, WIDTH, height=8, width=8),
        cond=TEXT,
        shape=(4, 4, 4),
        schedulers=(other("DDPMWuerstchen", scaler=0.5),),
        note="Scales and shifts its latents after the loop, which leaves the last time out.",
    ),
    PipelineCase(
        name="wuerstchen_decoder",
        build=wuerstchen_decoder,
        call=wuerstchen_decoder_call,
        cond=("image_embeddings",),
        shape=(4, 8, 8),
        schedulers=(other("DDPMWuerstchen", s=0.02),),
        note="Takes one prompt as words, for all embeddings.",
    ),
    PipelineCase(
        name="kandinsky22_prior",
        build=kandinsky_prior,
        call=lambda pipe: {"prompt": PROMPTS, "guidance_scale": 3.0},
        cond=(),
        shape=(WIDTH,),
        schedulers=(other("UnCLIP", clip_sample_range=2.0),),
        leave=as_tensor,
        note="Words only; step is told the next time; latents are scaled and shifted after the loop.",
    ),
    PipelineCase(
        name="deepfloyd",
        build=lambda: deepfloyd("IF", 3),
        call=lambda pipe: prompts(pipe, TOKENS, WIDTH),
        cond=TEXT,
        shape=(3, 8, 8),
        schedulers=IF_OTHERS,
        enter=as_first_draw_told,
        leave=as_tensor,
        note="In pixels, no latents argument; learned variances and thresholds.",
    ),
    PipelineCase(
        name="deepfloyd_up",
        build=lambda: deepfloyd("IFSuperResolution", 6, image_noising_scheduler=scheduler("DDPM")),
        call=lambda pipe: prompts(
            pipe, TOKENS, WIDTH, image=2 * uniform(pipe, BATCH, 3, 4, 4, seed=0) - 1, noise_level=100
        ),
        cond=(*TEXT, "image"),
        shape=(3, 8, 8),
        schedulers=IF_OTHERS,
        enter=as_first_draw_told,
        leave=as_tensor,
        note="The small picture, with noise of its own drawn before the loop, stands beside the state.",
    ),
)
