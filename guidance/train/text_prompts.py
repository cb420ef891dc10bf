"""Prompts as text for a diffusers pipeline: encoded once, and started as the pipeline starts."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...solvers import Plan
from ...solvers.pipelines import DiffusersPipeline
from ...solvers.wanted import Count
from ..objectives.objective import Batch
from .prompts import Prompt, Prompts


class TextPrompts(Prompts):
    """The texts as `Prompts`: cond is what the pipeline's text encoders make of a text, context is the text.

    Texts are encoded here, without a graph, and kept on the CPU: the encoders are not called again and may be moved
    away. Each sample starts from noise addressed by (seed, position), scaled and packed as the pipeline does.

    Args:
        found: of `from_diffusers`, called with one prompt: whose arguments but the prompts hold for all.
        texts: one prompt each.
        negative: prompt of all, or one for each; None: the pipeline's own.
        repeats, shuffle: as of `Prompts`.
        at_once: texts a call of the encoders; those of a family that pads to the longest must be encoded together.
        shape: of one sample's noise as the pipeline's call takes its `latents`; None: that of its own.

    Raises:
        ValueError: no texts; a pipeline that starts from a picture; embeddings of several lengths.
    """

    def __init__(
        self,
        found: DiffusersPipeline,
        texts: Sequence[str],
        *,
        negative: str | Sequence[str] | None = None,
        repeats: int = 1,
        shuffle: bool = True,
        at_once: Count = 16,
        shape: Sequence[int] | None = None,
    ) -> None:
        self.found = found
        own = _noise_shape(found)
        conds = [
            cond
            for k in range(0, len(texts), at_once)
            for cond in _encoded(found, texts[k : k + at_once], _part(negative, k, at_once))
        ]
        shapes = {tuple((name, value.shape) for name, value in cond.items()) for cond in conds}
        if len(shapes) > 1:
            raise ValueError(
                f"texts: got embeddings of {len(shapes)} shapes, expected one; encode all {len(texts)} together, "
                "at_once=len(texts)"
            )
        items = [Prompt(cond, text) for cond, text in zip(conds, texts, strict=True)]
        super().__init__(items, own if shape is None else shape, repeats=repeats, shuffle=shuffle)

    def batch(self, ids: Sequence[int], plan: Plan, seed: int, like: Tensor, stream: int = 0) -> Batch:
        found = super().batch(ids, plan, seed, like, stream)
        return replace(found, x=self.found.start(found.x))


def _noise_shape(found: DiffusersPipeline) -> tuple[int, ...]:
    """Of one sample's noise."""
    loop = found.loops.opened(None)
    if len(loop.labels) < len(loop.scheduler.timesteps):
        raise ValueError(
            f"found: got {found.loops.code.source.name}, which starts from a picture in the middle of its schedule, "
            "expected one that starts from noise; write Prompts of yours, whose batch() starts from found.draw"
        )
    return tuple(loop.state.shape[1:])


def _part(negative: str | Sequence[str] | None, first: int, count: int) -> str | list[str] | None:
    return (
        negative if negative is None or isinstance(negative, str) else list(negative[first : first + count])
    )


def _encoded(
    found: DiffusersPipeline, texts: Sequence[str], negative: str | list[str] | None
) -> list[dict[str, Tensor]]:
    """The conditioning of each text, without a batch axis."""
    given: dict[str, Any] = {"prompt": list(texts)}
    if negative is not None:
        given["negative_prompt"] = [negative] * len(texts) if isinstance(negative, str) else negative
    with torch.no_grad():
        cond = {name: value.cpu() for name, value in found.encode_prompt(**given).items()}
    for name, value in cond.items():
        if len(value) not in (1, len(texts)):
            raise ValueError(
                f"texts: got {len(value)} rows of {name} for {len(texts)} prompts, expected one for each; give "
                "from_diffusers one prompt, and leave num_images_per_prompt out"
            )
    return [{name: value[k % len(value)] for name, value in cond.items()} for k in range(len(texts))]
