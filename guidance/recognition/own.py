"""A user's own recognisers: any module or function that makes descriptors, with a gradient or without one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...solvers.kinds import described
from ..rewards.settled import check_settled
from .distances import EUCLIDEAN, Distance
from .recogniser import Recogniser


@dataclass(frozen=True, eq=False)
class Embedding(Recogniser):
    """A differentiable network(images) -> (B, d) as a Recogniser.

    Args:
        network: a module, in eval mode, or a function. It keeps its weights' `requires_grad`: freeze them.
        threshold: a distance, or None before calibration.
        distance: `EUCLIDEAN`, `COSINE` or your own `Distance`.
    """

    network: Callable[[Tensor], Tensor]
    threshold: float | None = None
    distance: Distance = EUCLIDEAN

    def __post_init__(self) -> None:
        _check("Embedding.network", self.network, self.threshold)

    @property
    def differentiable(self) -> bool:
        return True

    def embed(self, images: Tensor) -> Tensor:
        if isinstance(self.network, nn.Module):
            check_settled(self.network, "Embedding")
        try:
            return self.network(images)
        except RuntimeError as error:
            parameters = self.network.parameters() if isinstance(self.network, nn.Module) else ()
            own = {p.dtype for p in parameters if p.is_floating_point()} - {images.dtype}
            if not own or "type" not in str(error):
                raise
            raise ValueError(
                f"Embedding: got images of {images.dtype}, expected {own.pop()}, that of the network's parameters; "
                "convert the images, or the network"
            ) from error


@dataclass(frozen=True, eq=False)
class BlackBoxRecogniser(Recogniser):
    """A function(images) -> (B, d) without a gradient as a Recogniser: it gets detached images and refuses those that
    require grad. Arrays and lists of B rows are taken too; a row of NaN says that the image could not be read.

    Args: as of `Embedding`.
    """

    function: Callable[[Tensor], Any]
    threshold: float | None = None
    distance: Distance = EUCLIDEAN

    def __post_init__(self) -> None:
        _check("BlackBoxRecogniser.function", self.function, self.threshold)

    @property
    def differentiable(self) -> bool:
        return False

    def embed(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            found = self.function(images.detach())
        if isinstance(found, list | tuple | np.ndarray):
            found = torch.tensor(np.asarray(found, dtype=np.float64), device=images.device)
        return found


def _check(name: str, call: object, threshold: float | None) -> None:
    if not callable(call):
        raise TypeError(
            f"{name}: got {described(call)}, expected a module or a function: images (B, ...) to (B, d)"
        )
    if threshold is not None and not threshold > 0:
        raise ValueError(
            f"{name}: got threshold={threshold}, expected a distance > 0, or None; a similarity s becomes the distance "
            "1 - s (COSINE)"
        )
