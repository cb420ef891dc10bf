"""LearnedScale: how strong classifier-free guidance is at each step."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...solvers import ClassifierFree, Model
from .part import Draft, LearnedPart


@dataclass(frozen=True)
class LearnedScale(LearnedPart):
    """s + max(1, |s|) theta_k in step k, of a `ClassifierFree` denoiser with one number s for its scale."""

    rank = 3

    def size(self, draft: Draft, model: Model) -> int:
        if not isinstance(model, ClassifierFree) or torch.as_tensor(model.scale).ndim:
            raise ValueError(
                f"LearnedScale: got {type(model).__name__}, expected ClassifierFree with one number for its scale; "
                "leave LearnedScale out, or wrap the denoiser"
            )
        return draft.plan.steps

    def applied(self, draft: Draft, theta: Tensor, model: Model) -> Draft:
        assert isinstance(model, ClassifierFree)
        start = float(model.scale)
        return replace(draft, scale=start + max(1.0, abs(start)) * theta)
