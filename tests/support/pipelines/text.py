"""Tiny tokenizers and text encoders, made in memory."""

from typing import Any

from torch import nn

from .build import redrawn

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def clip_tokens(length: int = 20) -> Any:
    """CLIP's tokenizer with the letters as its words."""
    from transformers import CLIPTokenizer

    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: k for k, word in enumerate(words)}, merges=[], model_max_length=length)


def clip_text(width: int = 8, projection: int | None = None, length: int = 20) -> nn.Module:
    """CLIP's text encoder; with a projection of the pooled text where its width is given."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    last = 2 * len(LETTERS) + 1
    config = CLIPTextConfig(
        vocab_size=last + 1,
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=projection or width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=length,
        bos_token_id=last - 1,
        eos_token_id=last,
        pad_token_id=last,
    )
    return redrawn((CLIPTextModelWithProjection if projection else CLIPTextModel)(config))


def t5_tokens(length: int = 20) -> Any:
    """T5's tokenizer with the letters as its words."""
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters = [(letter, -3.0) for letter in LETTERS]
    return T5Tokenizer(vocab=[*special, *letters], extra_ids=0, model_max_length=length)


def t5_text(width: int = 8) -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    size: dict[str, Any] = {"vocab_size": 4 + len(LETTERS), "d_model": width, "d_kv": 4, "d_ff": 2 * width}
    return redrawn(
        T5EncoderModel(T5Config(**size, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"))
    )
