"""check_shared: whether a model's own guidance is the same for every row, as where rows are called otherwise mixed."""

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from .classifier_free import ClassifierFree


def check_shared(what: str, why: str, model: Any, x: Tensor) -> None:
    """Raise ValueError for a `ClassifierFree`, on whatever it stands, that holds a value for each of the rows of x
    (B, ...): its scale (B,) or (B, 1, ...), a null with a tensor (B, ...). `why` says what becomes of the rows.
    """
    while model is not None:
        if isinstance(model, ClassifierFree):
            scale = model.scale
            if isinstance(scale, Tensor) and scale.ndim in (1, x.ndim) and len(scale) > 1:
                raise ValueError(
                    f"{what}: got ClassifierFree with scale {tuple(scale.shape)}, expected one number: {why}; pass "
                    "cond=Guided(cond, scale), whose scale goes with its sample"
                )
            rows = [leaf for leaf in tree_leaves(model.null) if isinstance(leaf, Tensor) and leaf.ndim > 1]
            if len(x) > 1 and (shapes := [tuple(leaf.shape) for leaf in rows if len(leaf) == len(x)]):
                raise ValueError(
                    f"{what}: got ClassifierFree with a null {shapes[0]} for each of {len(x)} samples, expected one "
                    f"for all: {why}; pass one without the batch axis or with one of length 1"
                )
        model = getattr(model, "denoiser", None)
