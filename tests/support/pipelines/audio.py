"""Audio pipelines: AudioLDM, AudioLDM2 and MusicLDM on spectrograms, Stable Audio on one-dimensional latents."""

from typing import Any

from torch import nn

from .build import BETAS, network, normal, other, pipeline, redrawn, scheduler, vae
from .case import BATCH, PipelineCase, by_last_step
from .prompts import NOISE, TEXT, TOKENS, masks, prompts

WIDTH = 16  # of a token of the text
LANGUAGE = 12  # width of what AudioLDM2's language model writes
BLOCKS = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 4}
SECONDS = 16 * 4 / 16000  # sixteen frames of the spectrogram


def made(model: str, config: str, **sizes: Any) -> nn.Module:
    """A network of transformers with random weights."""
    import transformers

    return redrawn(getattr(transformers, model)(getattr(transformers, config)(**sizes)))


def vocoder() -> nn.Module:
    """Four samples of sound for a frame of eight mel bands."""
    rates = {"upsample_rates": [2, 2], "upsample_kernel_sizes": [4, 4], "upsample_initial_channel": 8}
    sizes = {"model_in_dim": 8, "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1]]}
    return made("SpeechT5HifiGan", "SpeechT5HifiGanConfig", **rates, **sizes, normalize_before=False)


def spectrograms(kind: str, unet: nn.Module, **parts: Any) -> Any:
    sampler = scheduler("DDIM", **BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    mel = {"vae": vae(in_channels=1, out_channels=1), "vocoder": vocoder()}
    return pipeline(kind, unet=unet, scheduler=sampler, tokenizer=None, **mel, **parts)


def audioldm2() -> Any:
    down, up = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
    types = {
        "down_block_types": down,
        "up_block_types": up,
        "cross_attention_dim": ((None, LANGUAGE, WIDTH),) * 2,
    }
    unet = redrawn(network("AudioLDM2UNet2DConditionModel", **BLOCKS, **types), 0.7)
    none = {name: None for name in ("text_encoder", "tokenizer_2", "projection_model", "feature_extractor")}
    heads = {"num_layers": 1, "num_heads": 1, "d_kv": 8, "d_ff": 8, "vocab_size": 8}
    written = {"n_embd": LANGUAGE, "n_layer": 1, "n_head": 1, "vocab_size": 8}
    speakers = {
        "text_encoder_2": made("T5EncoderModel", "T5Config", d_model=WIDTH, **heads),
        "language_model": made("GPT2LMHeadModel", "GPT2Config", **written),
    }
    return spectrograms("AudioLDM2", unet, **none, **speakers)


def audioldm2_call(pipe: Any) -> dict[str, Any]:
    names = ("generated_prompt_embeds", "negative_generated_prompt_embeds")
    written = {name: normal(pipe, BATCH, 3, LANGUAGE, seed=k) for k, name in enumerate(names, 2)}
    return prompts(pipe, TOKENS, WIDTH, **written, **masks(), audio_length_in_s=SECONDS)


def labelled(kind: str, **parts: Any) -> Any:
    """The text is one label; what stands for cross-attention looks at the picture itself."""
    down, up = ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
    types = {"down_block_types": down, "up_block_types": up, "cross_attention_dim": (8, 16)}
    labels = {"class_embed_type": "simple_projection", "projection_class_embeddings_input_dim": WIDTH}
    unet = network("UNet2DConditionModel", **BLOCKS, **types, **labels, class_embeddings_concat=True)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    ears = made("ClapTextModelWithProjection", "ClapTextConfig", **sizes, vocab_size=8, projection_dim=WIDTH)
    return spectrograms(kind, unet, text_encoder=ears, **parts)


def label_call(pipe: Any) -> dict[str, Any]:
    return prompts(pipe, WIDTH, audio_length_in_s=SECONDS)


def stable_audio() -> Any:
    heads = {
        "num_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "num_key_value_attention_heads": 1,
    }
    sizes = {
        "in_channels": 4,
        "out_channels": 4,
        "cross_attention_dim": 8,
        "time_proj_dim": 8,
        "sample_size": 8,
    }
    given = {"global_states_input_dim": 16, "cross_attention_input_dim": 8}
    waves = {"encoder_hidden_size": 4, "decoder_channels": 4, "decoder_input_channels": 4, "sampling_rate": 4}
    levels: dict[str, Any] = {"downsampling_ratios": [1, 2], "channel_multiples": [1, 2]}
    spans = {"text_encoder_dim": WIDTH, "conditioning_dim": 8, "min_value": 0, "max_value": 16}
    parts = {
        "transformer": network("StableAudioDiTModel", **heads, **sizes, **given),
        "vae": network("AutoencoderOobleck", **waves, **levels),
        "projection_model": network("StableAudioProjectionModel", **spans),
        "scheduler": scheduler("CosineDPMSolverMultistep", sigma_max=80.0),
    }
    return pipeline("StableAudio", text_encoder=None, tokenizer=None, **parts)


CASES = (
    PipelineCase(
        name="audioldm2",
        build=audioldm2,
        call=audioldm2_call,
        cond=(*TEXT, "generated_prompt_embeds", "negative_generated_prompt_embeds"),
        shape=(4, 8, 4),
        schedulers=NOISE,
        note="Text encoder and language model are asked for their dtype, if for nothing else.",
    ),
    PipelineCase(
        name="musicldm",
        build=lambda: labelled("MusicLDM", feature_extractor=None),
        call=label_call,
        cond=TEXT,
        shape=(4, 8, 4),
        schedulers=NOISE,
        note="The prompt is a class label, concatenated to the time embedding.",
    ),
    PipelineCase(
        name="audioldm",
        build=lambda: labelled("AudioLDM"),
        call=label_call,
        cond=TEXT,
        shape=(4, 8, 4),
        schedulers=NOISE,
        leave=by_last_step,
        note="Hands sound out only.",
    ),
    PipelineCase(
        name="stable_audio",
        build=stable_audio,
        call=lambda pipe: prompts(pipe, TOKENS, WIDTH, **masks(), audio_end_in_s=3.0),
        cond=TEXT,
        shape=(4, 8),
        schedulers=(
            other("EDMDPMSolverMultistep"),
            other("EDMEuler"),
            other("CosineDPMSolverMultistep", solver_order=1),
        ),
        note="Its scheduler draws along a Brownian path; the label is one for the whole batch.",
    ),
)
