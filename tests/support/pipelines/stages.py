"""Pipelines of two stages, of which one hands embeddings to the other, and Kolors: Kandinsky 2.2, Stable Cascade."""

import importlib.machinery
import sys
import types
from typing import Any
from unittest import mock

from torch import nn

from .build import BETAS, fresh, network, normal, other, pipeline, scheduler, vae
from .case import BATCH, PipelineCase
from .sdxl import POOLED, TEXT, pooled
from .stable_diffusion import OTHERS, WIDTH, sized, unet
from .text import clip_text

EMBEDDING = 6
POOL = ("prompt_embeds_pooled", "negative_prompt_embeds_pooled")


def kandinsky() -> Any:
    """The decoder of Kandinsky 2.2: a UNet that also says variances, told an image embedding only."""
    told = {
        "encoder_hid_dim": EMBEDDING,
        "encoder_hid_dim_type": "image_proj",
        "addition_embed_type": "image",
    }
    net = unet(out_channels=8, **told)
    sizes = {"block_out_channels": (4, 8), "norm_num_groups": 2, "latent_channels": 4, "num_vq_embeddings": 8}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    movq = network("VQModel", **sizes, **blocks)
    variances = {"variance_type": "learned_range", "clip_sample": False}
    return pipeline("KandinskyV22", unet=net, movq=movq, scheduler=scheduler("DDPM", **BETAS, **variances))


def embedded(pipe: Any) -> dict[str, Any]:
    names = ("image_embeds", "negative_image_embeds")
    seeds = {name: normal(pipe, BATCH, EMBEDDING, seed=20 + k) for k, name in enumerate(names)}
    return {**seeds, "height": 16, "width": 16, "guidance_scale": 3.0}


def cascade(**more: Any) -> nn.Module:
    sizes = {
        "conditioning_dim": 8,
        "block_out_channels": (8, 8),
        "num_attention_heads": (2, 2),
        "dropout": (0.0, 0.0),
    }
    depth = {name: (1, 1) for name in ("down_num_layers_per_block", "up_num_layers_per_block")}
    told = {"timestep_ratio_embedding_dim": 4, "clip_text_pooled_in_channels": POOLED}
    return network("StableCascadeUNet", **{**sizes, **depth, **told, **more})


def cascade_prior() -> Any:
    told = {"clip_text_in_channels": WIDTH, "clip_image_in_channels": EMBEDDING}
    return pipeline(
        "StableCascadePrior",
        prior=cascade(in_channels=4, out_channels=4, switch_level=(False,), **told),
        tokenizer=None,
        text_encoder=clip_text(projection=POOLED),
        scheduler=scheduler("DDPMWuerstchen"),
        resolution_multiple=2.0,
        feature_extractor=None,
        image_encoder=None,
    )


def cascade_decoder() -> Any:
    decoder = cascade(in_channels=4, out_channels=4, effnet_in_channels=EMBEDDING)
    return pipeline(
        "StableCascadeDecoder",
        decoder=decoder,
        tokenizer=None,
        text_encoder=clip_text(projection=POOLED),
        scheduler=scheduler("DDPMWuerstchen"),
        vqgan=None,
        latent_dim_scale=2.0,
    )


def texts(pipe: Any) -> dict[str, Any]:
    found = {name: normal(pipe, BATCH, 1, POOLED, seed=30 + k) for k, name in enumerate(POOL)}
    return {**sized(pipe), **found}


def decoded(pipe: Any) -> dict[str, Any]:
    call = {name: given for name, given in texts(pipe).items() if name not in ("height", "width")}
    return call | {"image_embeddings": normal(pipe, BATCH, EMBEDDING, 4, 4, seed=22)}


NO_TEXT: dict[str, Any] = {"text_encoder": None, "tokenizer": None}


def kolors() -> Any:
    """Its module wants sentencepiece, for a tokenizer that is not needed here."""
    stand_in = types.ModuleType("sentencepiece")
    stand_in.__dict__.update(
        SentencePieceProcessor=object, __spec__=importlib.machinery.ModuleSpec("sentencepiece", None)
    )
    with mock.patch.dict(sys.modules, {"sentencepiece": stand_in}):
        from diffusers.pipelines.kolors.pipeline_kolors import KolorsPipeline
    told = {"addition_embed_type": "text_time", "addition_time_embed_dim": 2, "encoder_hid_dim": WIDTH + 1}
    net = unet(encoder_hid_dim_type="text_proj", projection_class_embeddings_input_dim=12 + POOLED, **told)
    sampler = scheduler("EulerDiscrete", **BETAS, steps_offset=1, timestep_spacing="leading")
    parts: dict[str, Any] = {"vae": vae(), "unet": net, "scheduler": sampler, **NO_TEXT}
    pipe = KolorsPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def case(name: str, build: Any, call: Any, **more: Any) -> PipelineCase:
    return PipelineCase(
        name=name, build=build, call=call, **{"shape": (4, 8, 8), "schedulers": OTHERS, **more}
    )


RENOISING = (
    fresh("DDIM", clip_sample=False),
    fresh("EulerAncestralDiscrete"),
    fresh("EulerDiscrete", use_karras_sigmas=True),
)
CASES = (
    case(
        "kandinsky22",
        kandinsky,
        embedded,
        cond=("image_embeds", "negative_image_embeds"),
        schedulers=RENOISING,
        note="The network says variances, which DDPM takes and the others are not shown; draws at every step.",
    ),
    case(
        "cascade_prior",
        cascade_prior,
        texts,
        cond=("prompt_embeds", "negative_prompt_embeds", *POOL),
        schedulers=(other("DDPMWuerstchen", scaler=2.0), *RENOISING[:2]),
        note="The loop leaves the last time out; labels are ratios with a batch axis; text first in the two branches.",
    ),
    case(
        "cascade_decoder",
        cascade_decoder,
        decoded,
        cond=("image_embeddings", *POOL),
        schedulers=(other("DDPMWuerstchen", scaler=2.0), *RENOISING[:2]),
        note="Wants a text encoder, if only for its dtype; hears pooled texts only; returns no tuple.",
    ),
    case(
        "kolors",
        kolors,
        lambda pipe: {
            **sized(pipe),
            **pooled(pipe),
            "prompt_embeds": normal(pipe, BATCH, 5, WIDTH + 1, seed=0),
            "negative_prompt_embeds": normal(pipe, BATCH, 5, WIDTH + 1, seed=1),
        },
        cond=TEXT,
    ),
)
