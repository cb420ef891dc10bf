"""A Stable Diffusion of random weights, made in a second from its configurations: to try scripts with."""

from typing import Any

import torch

LETTERS = "abcdefghijklmnopqrstuvwxyz"
BLOCKS: dict[str, Any] = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}
HALVES: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
}


def tiny_stable_diffusion(seed: int = 0, size: int = 32) -> Any:
    """StableDiffusionPipeline of pictures of size x size pixels, float32, on the CPU; CLIP's words are letters."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel  # pyright: ignore[reportPrivateImportUsage]
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    text: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "vocab_size": len(words), "max_position_embeddings": 20}
    text |= {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    betas: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    none: dict[str, Any] = {"safety_checker": None, "feature_extractor": None}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel(sample_size=size // 2, cross_attention_dim=16, **BLOCKS),
            "vae": AutoencoderKL(sample_size=size, latent_channels=4, **HALVES),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**text)),
            "tokenizer": CLIPTokenizer(
                vocab={word: k for k, word in enumerate(words)}, merges=[], model_max_length=20
            ),
            "scheduler": DDIMScheduler(**betas, clip_sample=False, steps_offset=1),
        }
    pipe = StableDiffusionPipeline(**parts, **none, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe
