"""check_shared: whether a model's own guidance is the same for every row, as where rows are called otherwise mixed."""

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten

from .classifier_free import ClassifierFree, Guided


def check_shared(what: str, why: str, model: Any, x: Tensor, cond: Any) -> None:
    """Raise ValueError for a `ClassifierFree`, on whatever it stands, that holds a value for each of the rows of x
    (B, ...): its scale (B,) or (B, 1, ...), a null with a tensor of the shape of its counterpart in cond, (B, ...).
    `why` says what becomes of the rows.
    """
    while model is not None:
        if isinstance(model, ClassifierFree):
            scale = model.scale
            if isinstance(scale, Tensor) and scale.ndim in (1, x.ndim) and len(scale) > 1:
                raise ValueError(
                    f"{what}: got ClassifierFree with scale {tuple(scale.shape)}, expected one number: {why}; pass "
                    "cond=Guided(cond, scale), whose scale goes with its sample"
                )
            if shapes := _of_each(model.null, cond[0] if isinstance(cond, Guided) else cond, len(x)):
                raise ValueError(
                    f"{what}: got ClassifierFree with a null {shapes[0]} for each of {len(x)} samples, expected one "
                    f"for all: {why}; pass one without the batch axis or with one of length 1"
                )
        model = getattr(model, "denoiser", None)


def _of_each(null: Any, cond: Any, batch: int) -> list[tuple[int, ...]]:
    """Shapes of the tensors in `null` with a row for each of more samples than one, as `ClassifierFree` reads them."""
    (mine, form), (theirs, other) = tree_flatten(null), tree_flatten(cond)
    pairs = zip(mine, theirs if form == other else [None] * len(mine), strict=True)
    return [
        tuple(a.shape)
        for a, b in pairs
        if isinstance(a, Tensor)
        and a.ndim
        and len(a) == batch > 1
        and (a.shape == b.shape if isinstance(b, Tensor) else a.ndim > 1)
    ]
