"""Expectation over transformation: the loss of an attack on a defence that draws noise."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from ...solvers import Addressed
from ...solvers.wanted import Wanted

# of one tensor (B, ...) for each start
PointLoss = Annotated[
    Callable[..., Tensor], Wanted("a function of tensors like `starts` to (B,); pass lambda x: ...")
]


@dataclass(frozen=True, eq=False)
class Expectation:
    """mean over `draws` of loss(*points, noise): noise an `Addressed` of its own for every draw of every turn.

        Expectation(lambda image, noise: loss(purify(denoiser, plan, image, noise.initial(image), noise=noise)))

    Args:
        loss: of the points and of an `Addressed`, whose slots are the defence's: (B,).
        draws: loss and gradient are their mean; one is differentiated at a time, so memory is that of one.
        noise: seed and sample ids of all draws, told apart by streams counted from its own.

    A sample's noise follows from its id, the turn and the draw: never from its batch mates.

    Source: Athalye et al. 2018, arXiv 1707.07397 (EOT); 1802.00420, section 4.2 for defences that draw noise.
    """

    loss: PointLoss
    draws: int = 8
    noise: Addressed = Addressed(0)

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"Expectation: got draws={self.draws}, expected at least 1; 8 to 32 are usual")

    def losses(self, turn: int) -> list[PointLoss]:
        """The loss under each draw of one turn."""
        return [self._under(turn * self.draws + k) for k in range(self.draws)]

    def _under(self, index: int) -> PointLoss:
        old = self.noise
        noise = Addressed(old.seed, old.samples, old.stream + index, old.on_cpu)
        return lambda *points: self.loss(*points, noise)
