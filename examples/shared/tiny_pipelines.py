"""Tiny pipelines of random weights, built from their configurations: they run anywhere, and draw nothing."""

import importlib
from typing import Any

import torch
from torch import nn

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def redrawn(network: nn.Module) -> nn.Module:
    """All weights drawn anew, so that layers that training starts at zero count too."""
    for name, weight in network.named_parameters():
        if weight.ndim > 1:
            weight.data = torch.randn_like(weight) / weight[0].numel() ** 0.5
        else:
            weight.data = float(name.endswith("weight")) + 0.1 * torch.randn_like(weight)
    return network.eval().requires_grad_(False)


def stable_diffusion(seed: int = 0) -> Any:
    """Stable Diffusion of 8 and 16 channels: 32 x 32 pixels of 8 x 8 latents, told by the letters of a text."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    library: Any = importlib.import_module("diffusers")  # typed too narrowly to be built from
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    last = len(words) - 1
    text = CLIPTextConfig(
        vocab_size=last + 1, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=20, bos_token_id=last - 1, eos_token_id=last, pad_token_id=last,
    )  # fmt: skip
    size = {"layers_per_block": 1, "norm_num_groups": 2}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = library.AutoencoderKL(
            latent_channels=4, sample_size=32, block_out_channels=(4, 4, 8), **size, **blocks
        )
        unet = library.UNet2DConditionModel(
            sample_size=8, cross_attention_dim=8, block_out_channels=(8, 16), attention_head_dim=4, **size,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )  # fmt: skip
        parts = {"vae": redrawn(vae), "unet": redrawn(unet), "text_encoder": redrawn(CLIPTextModel(text))}
    # a milder schedule than Stable Diffusion's: the x0 that a random network's noise says is of size 1/alpha
    scheduler = library.DDIMScheduler(
        beta_start=0.00085, beta_end=0.006, beta_schedule="scaled_linear", clip_sample=False,
        timestep_spacing="trailing", steps_offset=1,
    )  # fmt: skip
    tokenizer = CLIPTokenizer(vocab={word: k for k, word in enumerate(words)}, merges=[], model_max_length=20)
    return library.StableDiffusionPipeline(
        **parts, tokenizer=tokenizer, scheduler=scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def flux(seed: int = 0) -> Any:
    """32 x 32 pixels of 4 x 8 x 8 latents, packed to 16 tokens; two layers, told by the letters of a text."""
    import diffusers
    import transformers

    made: Any = diffusers  # whose names are found when they are asked for
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    letters = [(letter, -3.0) for letter in LETTERS]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *letters]
    last, width = len(words) - 1, 8
    clip = transformers.CLIPTextConfig(
        vocab_size=last + 1, hidden_size=width, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=77, bos_token_id=last - 1, eos_token_id=last, pad_token_id=last,
    )  # fmt: skip
    t5 = transformers.T5Config(
        vocab_size=len(pieces), d_model=width, d_kv=4, d_ff=16, num_layers=2, num_heads=2,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    blocks: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = made.AutoencoderKL(
            latent_channels=4, sample_size=32, block_out_channels=(4, 4, 8), norm_num_groups=2, shift_factor=0.06,
            **blocks,
        )  # fmt: skip
        transformer = made.FluxTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=width, pooled_projection_dim=width, guidance_embeds=True, axes_dims_rope=(2, 2, 4),
        )  # fmt: skip
        parts: dict[str, Any] = {
            "vae": vae, "transformer": transformer, "text_encoder": transformers.CLIPTextModel(clip),
            "text_encoder_2": transformers.T5EncoderModel(t5),
        }  # fmt: skip
        for part in parts.values():
            redrawn(part)
    return made.FluxPipeline(
        **parts,
        tokenizer=transformers.CLIPTokenizer(
            vocab={word: k for k, word in enumerate(words)}, merges=[], model_max_length=77
        ),
        tokenizer_2=transformers.T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=77),
        scheduler=made.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
    )
