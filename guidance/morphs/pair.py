"""Pair: the two subjects of every morph of a batch."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ...adjoint.replay.cond import leaves
from ...solvers.checked import CheckedFields
from ...solvers.notebook import Shown
from ...solvers.opening import check_state


@dataclass(frozen=True, eq=False, repr=False)
class Pair(Shown, CheckedFields):
    """B pairs of images, `first` and `second` (B, ...), and what the model is told of either.

    Args:
        first_cond, second_cond: conditioning as for `sample`, a semantic code for instance: any nesting of tensors
            (B, ...), the same for both; None for a model without.
    """

    first: Tensor
    second: Tensor
    first_cond: Any = None
    second_cond: Any = None

    def __post_init__(self) -> None:
        a, b = self.first, self.second
        for name, image in (("first", a), ("second", b)):
            check_state(image, name=name)
        if a.shape != b.shape or a.dtype != b.dtype:
            raise ValueError(
                f"Pair: got images {tuple(a.shape)} of {a.dtype} and {tuple(b.shape)} of {b.dtype}, expected the "
                "same twice; crop them alike"
            )
        shapes = [[leaf.shape for leaf in leaves(cond)] for cond in (self.first_cond, self.second_cond)]
        if shapes[0] != shapes[1] or any(shape[:1] != a.shape[:1] for shape in shapes[0]):
            raise ValueError(
                f"Pair: got conditioning {[tuple(s) for s in shapes[0]]} and {[tuple(s) for s in shapes[1]]}, expected "
                f"the same tensors ({len(a)}, ...) for both; give every image its own row"
            )

    def cond(self, weight: float) -> Any:
        """Conditioning on the line between the two: (1 - weight) first + weight second, leaf by leaf. Leaves that are
        not floating point, labels for instance, are the nearer one's.
        """

        def between(a: Any, b: Any) -> Any:
            if isinstance(a, Tensor) and a.is_floating_point():
                return torch.lerp(a, b, weight)
            return b if weight > 0.5 else a

        return tree_map(between, self.first_cond, self.second_cond)
