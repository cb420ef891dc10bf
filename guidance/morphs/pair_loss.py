"""The loss of a morph: how far it is from both subjects, in the eyes of several recognisers, and how unreal."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...solvers import Model
from ...solvers.checked import CheckedFields
from ...solvers.kinds import check_kind
from ...solvers.opening import check_state
from ..recognition.recogniser import Recogniser
from .identity_loss import IdentityLoss, SumAndDifference
from .realism import Realism
from .scene import Scene, Spent
from .views import Views


@dataclass(frozen=True)
class MorphLoss(CheckedFields):
    """sum_r w_r identity(d_r(x, a), d_r(x, b)) + realism.

    Args:
        identity: of the two distances in the eyes of a recogniser.
        weights: w_r, one a recogniser; None: each 1.
        realism: terms added, with their own weights.
        views: the identity terms are the mean over these; None: the image as it is.
    """

    identity: IdentityLoss = SumAndDifference()
    weights: tuple[float, ...] | None = None
    realism: tuple[Realism, ...] = ()
    views: Views | None = None

    def of(self, scene: Scene, recognisers: tuple[Recogniser, ...]) -> "PairLoss":
        """The loss for the pair of `scene`. Raises ValueError where a recogniser cannot read a subject."""
        weights = (1.0,) * len(recognisers) if self.weights is None else self.weights
        if len(weights) != len(recognisers) or not all(w >= 0 for w in weights):
            raise ValueError(
                f"MorphLoss: got weights {weights} for {len(recognisers)} recognisers, expected as many, each at least "
                "0; leave weights out to count all alike"
            )
        subjects = tuple(subjects_of(r, scene.pair.first, scene.pair.second) for r in recognisers)
        for recogniser, both in zip(recognisers, subjects, strict=True):
            for name, seen in zip(("first", "second"), both, strict=True):
                _check_read(recogniser, name, seen)
        references = tuple(term.reference(scene) for term in self.realism)
        return PairLoss(self, scene.model, recognisers, weights, (subjects, references), scene.spent)


@dataclass(frozen=True, eq=False)
class PairLoss:
    """A `MorphLoss` for given pairs: images (B, ...) to (B,), smaller is a better morph.

    Attributes:
        context: what belongs to the pairs, every tensor (B, ...): descriptions of the subjects by each recogniser, and
            the references of the realism terms.
    """

    terms: MorphLoss
    model: Model
    recognisers: tuple[Recogniser, ...]
    weights: tuple[float, ...]
    context: Any
    spent: Spent

    def __call__(self, images: Tensor) -> Tensor:
        return self.given(images, self.context)

    def given(self, images: Tensor, context: Any) -> Tensor:
        """(B,) for images that belong to the rows of `context`: the pairs' own, or repeated for particles."""
        subjects, references = context
        views = [images] if self.terms.views is None else self.terms.views(images)
        each = len(images) // len(self.context[0][0][0])  # images a pair: several where they are particles
        self.spent.looks += each * len(views)
        total = images.new_zeros(len(images))
        for recogniser, weight, (first, second) in zip(self.recognisers, self.weights, subjects, strict=True):
            for view in views:
                seen = recogniser.describe(view)
                near, far = recogniser.distance(seen, first), recogniser.distance(seen, second)
                total = total + (weight / len(views)) * self.terms.identity(near, far).to(total)
        for term, reference in zip(self.terms.realism, references, strict=True):
            total = total + term(self.model, images, reference)
            self.spent.nfe += each * term.nfe
            self.spent.vjps += each * term.nfe if images.requires_grad else 0
        return total


def _check_read(recogniser: Recogniser, name: str, seen: Tensor) -> None:
    """Raise ValueError where a subject has no distance even to itself: a row of NaN, or zeros under `Cosine`."""
    unread = recogniser.distance(seen, seen).isnan().nonzero().flatten().tolist()
    if unread:
        raise ValueError(
            f"recognisers: got a {type(recogniser).__name__} that cannot read the {name} subject of pairs "
            f"{unread[:8]}, expected descriptors of all subjects; leave these pairs out, or make it a judge"
        )


def subjects_of(recogniser: Recogniser, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """What a recogniser sees in both subjects."""
    with torch.no_grad():
        return recogniser.describe(first), recogniser.describe(second)


def distances(recogniser: Recogniser, images: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """(2, B): how far images are from the first and from the second subject, in a recogniser's eyes."""
    check_kind("recogniser", recogniser, Recogniser, "a recogniser; wrap a network: Embedding(network)")
    for name, each in (("images", images), ("first", first), ("second", second)):
        check_state(each, name=name)
    if not images.shape[0] == first.shape[0] == second.shape[0]:
        raise ValueError(
            f"distances: got {len(images)} images for {len(first)} and {len(second)} subjects, expected as many of "
            "each; expand what images share"
        )
    with torch.no_grad():
        seen = recogniser.describe(images)
        return torch.stack(
            [recogniser.distance(seen, each) for each in subjects_of(recogniser, first, second)]
        )
