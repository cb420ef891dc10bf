"""Scorers built on CLIP: CLIP score, PickScore, the LAION aesthetic head. The models are yours or lie on your disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...solvers.optional import library
from .base import Reward
from .settled import check_settled
from .values import at_least_float32

# what OpenAI's CLIP was trained with, and every scorer below after it; `from_path` reads the scorer's own
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocess:
    """Resize the shorter side, crop the centre, normalise: a scorer's own image processor, differentiable and
    antialiased.

    As the processor, with two differences: the cubic resize may leave [0, 1] where the processor clamps to
    bytes, and nothing is rounded. Values that enter outside the range are kept, so that their gradient is
    too.

    Args:
        size: side of the scorer's input, in pixels. mean, std: per channel, for values in [0, 1].
        low, high: values of black and white in the samples.
    """

    size: int = 224
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(
                f"Preprocess: got low={self.low}, high={self.high}, expected low < high: the samples' range"
            )

    def __call__(self, samples: Tensor) -> Tensor:
        """(B, 3, H, W), or (B, 1, H, W) repeated over the channels, to (B, 3, size, size)."""
        if samples.ndim != 4 or samples.shape[1] not in (1, 3):
            raise ValueError(
                f"CLIP scorer: got samples of shape {tuple(samples.shape)}, expected images (B, 3, H, W) or "
                "(B, 1, H, W); decode latents first"
            )
        height, width = samples.shape[2:]
        short = min(height, width)
        shape = (self.size * height // short, self.size * width // short)
        images = ((samples - self.low) / (self.high - self.low)).expand(-1, 3, -1, -1)
        if shape != (height, width):
            images = F.interpolate(images, shape, mode="bicubic", align_corners=False, antialias=True)
        top, left = (shape[0] - self.size) // 2, (shape[1] - self.size) // 2
        images = images[:, :, top : top + self.size, left : left + self.size]
        mean, std = (
            torch.tensor(v, dtype=images.dtype, device=images.device)[:, None, None]
            for v in (self.mean, self.std)
        )
        return (images - mean) / std

    @classmethod
    def from_path(cls, path: str | Path, low: float = -1.0, high: float = 1.0) -> "Preprocess":
        """The numbers in `preprocessor_config.json` of a scorer on disk. Nothing is downloaded."""
        transformers = library("transformers", "Preprocess.from_path", "rewards")
        own = transformers.AutoImageProcessor.from_pretrained(path, local_files_only=True)
        crop = own.crop_size["height"]
        if own.size.get("shortest_edge") != crop or own.resample != 3:
            raise ValueError(
                f"Preprocess: got size={own.size}, crop={own.crop_size}, resample={own.resample}, expected a "
                "cubic resize of the shorter side to the crop; write the preprocessing of this scorer as a "
                "Reward of yours"
            )
        return cls(crop, tuple(own.image_mean), tuple(own.image_std), low, high)


def image_embeddings(model: Any, pixels: Tensor) -> Tensor:
    """(B, d) image embeddings of a transformers CLIPModel, not normalised, in the pixels' dtype, float32 at least."""
    first = next(model.parameters())
    pooled = model.vision_model(pixel_values=pixels.to(first.device, first.dtype)).pooler_output
    return model.visual_projection(pooled).to(at_least_float32(pixels[:0]))


@dataclass(frozen=True, eq=False)
class CLIPScore(Reward):
    """scale * cos(image embedding, text embedding) of a transformers CLIPModel; 100 cos by default
    (2104.08718 without its clip).

    The prompts are the context: text embeddings (B, d) from `encode`, or B strings, or one string for all.

    Args:
        model: a CLIPModel in eval mode. tokenizer: its tokenizer, needed for prompts as strings.
        preprocess: the scorer's own image preprocessing and the samples' range.
        scale: None takes the model's own, exp(logit_scale).

    Cost: one image call with a graph, and one text call without where prompts are strings: encode them once
    if they repeat.
    """

    model: Any
    tokenizer: Any = None
    preprocess: Preprocess = Preprocess()
    scale: float | None = 100.0

    def score(self, samples: Tensor, context: Any) -> Tensor:
        check_settled(self.model, type(self).__name__)
        image = image_embeddings(self.model, self.preprocess(samples))
        text = self._text(context, len(samples)).to(image)
        scale = self.model.logit_scale.detach().exp().to(image) if self.scale is None else self.scale
        return scale * F.cosine_similarity(image, text, dim=1)

    def encode(self, prompts: list[str]) -> Tensor:
        """Text embeddings (B, d) of B prompts, detached: cut at the model's longest text."""
        if self.tokenizer is None:
            raise ValueError(
                f"{type(self).__name__}: got prompts and no tokenizer, expected one; pass tokenizer=, or "
                "embeddings (B, d) as context"
            )
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            prompts, padding=True, truncation=True, max_length=length, return_tensors="pt"
        )
        tokens = {
            name: tokens[name].to(next(self.model.parameters()).device)
            for name in ("input_ids", "attention_mask")
        }
        with torch.no_grad():
            return self.model.text_projection(self.model.text_model(**tokens).pooler_output)

    def _text(self, context: Any, count: int) -> Tensor:
        if isinstance(context, str):
            return self.encode([context]).expand(count, -1)
        text = (
            context
            if isinstance(context, Tensor)
            else self.encode(list(context))
            if context is not None
            else None
        )
        if text is None or text.ndim != 2 or len(text) != count:
            got = "None" if text is None else f"{tuple(text.shape)}"
            raise ValueError(
                f"{type(self).__name__}: got text {got} as context, expected {count} prompts or "
                f"embeddings ({count}, d); pass one per sample, or one string for all"
            )
        return text

    @classmethod
    def from_path(cls, path: str | Path, low: float = -1.0, high: float = 1.0) -> "CLIPScore":
        """Model, tokenizer and preprocessing from a folder on disk, frozen. Nothing is downloaded."""
        transformers = library("transformers", "CLIPScore.from_path", "rewards")
        model = (
            transformers.CLIPModel.from_pretrained(path, local_files_only=True).eval().requires_grad_(False)
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
        return cls(model, tokenizer, Preprocess.from_path(path, low, high))


@dataclass(frozen=True, eq=False)
class PickScore(CLIPScore):
    """exp(logit_scale) * cos(image, text) of the PickScore model (2305.01569): the logit its preferences are
    a softmax of.

    About 20 for the released model. Arguments, context and cost as for CLIPScore.
    """

    scale: float | None = None


class AestheticHead(nn.Module):
    """The LAION aesthetic predictor's head: five linear layers, dropout between them, nothing else; (B,
    width) to (B, 1).
    """

    def __init__(self, width: int = 768) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Linear(width, 1024), nn.Dropout(0.2), nn.Linear(1024, 128), nn.Dropout(0.2)),
            *(nn.Linear(128, 64), nn.Dropout(0.1), nn.Linear(64, 16), nn.Linear(16, 1)),
        )

    def forward(self, embedding: Tensor) -> Tensor:
        return self.layers(embedding)


@dataclass(frozen=True, eq=False)
class Aesthetic(Reward):
    """head(e / |e|), e the CLIP image embedding: the LAION aesthetic score, roughly 1 to 10.

    Args:
        model: the CLIPModel the head was fitted on (ViT-L/14 for the released one), in eval mode.
        head: (B, d) to (B, 1), as `AestheticHead`, in eval mode.
        preprocess: the scorer's own image preprocessing and the samples' range.

    Cost: one image call. The context is not looked at.
    """

    model: Any
    head: nn.Module
    preprocess: Preprocess = Preprocess()

    def score(self, samples: Tensor, context: Any) -> Tensor:
        check_settled(self.model, "Aesthetic")
        check_settled(self.head, "Aesthetic")
        embedding = F.normalize(image_embeddings(self.model, self.preprocess(samples)), dim=1)
        return self.head(embedding.to(next(self.head.parameters()))).squeeze(1).to(embedding)

    @classmethod
    def from_path(
        cls, path: str | Path, head: str | Path, low: float = -1.0, high: float = 1.0
    ) -> "Aesthetic":
        """The CLIPModel in folder `path` and the head's weights in file `head` (.safetensors or .pth),
        frozen, from disk.
        """
        from safetensors.torch import load_file

        clip = CLIPScore.from_path(path, low, high)
        weights = (
            load_file(head) if Path(head).suffix == ".safetensors" else torch.load(head, weights_only=True)
        )
        network = AestheticHead(weights["layers.0.weight"].shape[1])
        network.load_state_dict(weights)
        return cls(clip.model, network.eval().requires_grad_(False), clip.preprocess)
