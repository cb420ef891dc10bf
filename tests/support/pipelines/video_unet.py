"""Video pipelines around a UNet: AnimateDiff, Stable Video Diffusion."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from .build import BETAS, network, other, pipeline, scheduler, uniform, vae
from .case import BATCH, PipelineCase
from .prompts import NOISE, TEXT, TOKENS, clip_vision, prompts

WIDTH = 16  # of a token of the text, or of the image embedding
SIZE = {"height": 16, "width": 16}


def animatediff() -> Any:
    blocks = {"block_out_channels": (8, 16), "norm_num_groups": 4}
    heads = {"motion_num_attention_heads": 2, "motion_max_seq_length": 4, "use_motion_mid_block": False}
    sizes = {"sample_size": 8, "attention_head_dim": 4, "cross_attention_dim": WIDTH, "layers_per_block": 1}
    down, up = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
    unet = network("UNet2DConditionModel", **blocks, **sizes, down_block_types=down, up_block_types=up)
    motion = {
        **heads,
        "motion_layers_per_block": 1,
        "motion_norm_num_groups": 4,
        "block_out_channels": (8, 16),
    }
    parts = {"unet": unet, "motion_adapter": network("MotionAdapter", **motion), "vae": vae()}
    return pipeline(
        "AnimateDiff",
        text_encoder=None,
        tokenizer=None,
        **parts,
        scheduler=scheduler("DDIM", **BETAS, clip_sample=False),
    )


@dataclass(frozen=True)
class Normalised:
    """A feature extractor that keeps gradients, as that of transformers does not: 8 x 8 pixels."""

    def __call__(self, images: Tensor, **options: Any) -> SimpleNamespace:
        return SimpleNamespace(pixel_values=nn.functional.interpolate(images, size=8) * 2 - 1)


def stable_video() -> Any:
    blocks = {
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "num_attention_heads": (2, 4),
        "num_frames": 2,
    }
    down = ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal")
    types = {
        "down_block_types": down,
        "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    }
    sizes = {
        "cross_attention_dim": WIDTH,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24,
    }
    unet = network("UNetSpatioTemporalConditionModel", sample_size=8, **blocks, **types, **sizes)
    halves = {"block_out_channels": (32, 32), "down_block_types": ("DownEncoderBlock2D",) * 2}
    levels = {
        "sigma_min": 0.002,
        "sigma_max": 700.0,
        "use_karras_sigmas": True,
        "timestep_type": "continuous",
    }
    sampler = scheduler("EulerDiscrete", prediction_type="v_prediction", **levels)
    decoder = network("AutoencoderKLTemporalDecoder", **halves)
    eyes = {"image_encoder": clip_vision(WIDTH), "feature_extractor": Normalised()}
    return pipeline("StableVideoDiffusion", unet=unet, vae=decoder, scheduler=sampler, **eyes)


def stable_video_call(pipe: Any) -> dict[str, Any]:
    images = uniform(pipe, BATCH, 3, 16, 16, seed=0)
    return {"image": images, **SIZE, "num_frames": 2, "noise_aug_strength": 0.0}


CASES = (
    PipelineCase(
        name="animatediff",
        build=animatediff,
        call=lambda pipe: prompts(pipe, TOKENS, WIDTH, num_frames=2, **SIZE),
        cond=TEXT,
        shape=(4, 2, 8, 8),
        schedulers=NOISE,
        note="Texts are repeated for every frame; FreeInit, where it is on, is a loop around the loop.",
    ),
    PipelineCase(
        name="stable_video",
        build=stable_video,
        call=stable_video_call,
        cond=("image",),
        shape=(2, 4, 8, 8),
        schedulers=(other("EDMEuler"),),
        note="Each frame has a scale; the image goes in twice, with noise that is drawn before the loop.",
    ),
)
