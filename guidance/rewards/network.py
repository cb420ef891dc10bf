"""Rewards from the user's own networks: a classifier's opinion, likeness of embeddings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...solvers.notebook import Shown
from .base import Reward
from .settled import check_settled
from .values import at_least_float32


def given(context: Any) -> Any:
    """The context as it is."""
    return context


@dataclass(frozen=True, eq=False)
class ClassifierReward(Reward):
    """log p(label | x) in nats, or p(label | x) in (0, 1), of a classifier: log_softmax(network(x))[label].

    The probability is bounded and its gradient dies where the classifier is sure of another class; the
    log-probability is unbounded below, with a gradient everywhere.

    Args:
        network: (B, ...) to logits (B, K); in eval mode, its weights frozen unless you want their gradients.
        label: one class for all, 0 <= label < K. Where None the labels (B,), integers, come from the context.
        log: log-probability or probability.
        pick: finds the labels in the context.

    Cost: one call of `network`.
    """

    network: nn.Module
    label: int | None = None
    log: bool = True
    pick: Callable[[Any], Tensor | None] = given

    def score(self, samples: Tensor, context: Any) -> Tensor:
        check_settled(self.network, "ClassifierReward")
        labels = (
            self.pick(context)
            if self.label is None
            else torch.full((len(samples),), self.label, device=samples.device)
        )
        if not isinstance(labels, Tensor) or labels.shape != samples.shape[:1] or labels.is_floating_point():
            got = (
                f"{labels.dtype} of shape {tuple(labels.shape)}"
                if isinstance(labels, Tensor)
                else repr(labels)
            )
            raise ValueError(
                f"ClassifierReward: got labels {got} in the context, expected integers ({len(samples)},); "
                "pass them as context, or fix one class with label="
            )
        logits = self.network(samples)
        if (
            logits.ndim != 2
            or len(logits) != len(samples)
            or not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]
        ):
            raise ValueError(
                f"ClassifierReward: got logits {tuple(logits.shape)} and labels {int(labels.min())} .. "
                f"{int(labels.max())}, expected ({len(samples)}, K) and 0 <= label < K; choose a network and "
                "classes that fit"
            )
        value = F.log_softmax(at_least_float32(logits), 1).gather(
            1, labels.to(logits.device).long()[:, None]
        )[:, 0]
        return value if self.log else value.exp()


@dataclass(frozen=True, eq=False, repr=False)
class EmbeddingSimilarity(Shown, Reward):
    """cos(network(x), reference), in [-1, 1].

    Args:
        network: (B, ...) to embeddings (B, d), of any length; in eval mode.
        reference: (d,) for all samples. Where None the references (B, d) or (d,) come from the context.
        pick: finds the references in the context.

    Cost: one call of `network`.
    """

    network: nn.Module
    reference: Tensor | None = None
    pick: Callable[[Any], Tensor | None] = given

    def score(self, samples: Tensor, context: Any) -> Tensor:
        check_settled(self.network, "EmbeddingSimilarity")
        reference = self.pick(context) if self.reference is None else self.reference
        embedding = self.network(samples)
        shapes = (embedding.shape, embedding.shape[1:])
        if embedding.ndim != 2 or not isinstance(reference, Tensor) or reference.shape not in shapes:
            got = tuple(reference.shape) if isinstance(reference, Tensor) else repr(reference)
            raise ValueError(
                f"EmbeddingSimilarity: got embeddings {tuple(embedding.shape)} and a reference {got}, "
                "expected (B, d) and (d,) or (B, d); flatten the network's output, pass the reference or put "
                "it in the context"
            )
        embedding = at_least_float32(embedding)
        return F.cosine_similarity(embedding, reference.to(embedding), dim=1)
