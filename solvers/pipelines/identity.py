"""What tells conditioning from another, at the cost of a look: memory, writes, a few numbers."""

from typing import Any

from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd import forward_ad
from torch.utils._pytree import tree_flatten

GLANCE = 4096  # numbers of a tensor that are compared with those it had


def passing(leaf: Tensor) -> bool:
    """Whether a tensor stands for others for the time being, or does not count its writes."""
    if is_functorch_wrapped_tensor(leaf) or leaf.is_inference():
        return True
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(leaf).tangent is not None


def glance(leaf: Tensor) -> Tensor:
    """Some of its numbers: what a fused optimiser writes is not counted as a write."""
    flat = leaf.detach().reshape(-1)
    return flat[:: max(1, len(flat) // GLANCE)]


def known_by(leaf: Tensor) -> tuple[Any, ...]:
    writes = None if leaf.is_inference() else leaf._version
    return leaf.data_ptr(), leaf.shape, leaf.stride(), leaf.dtype, writes, leaf.requires_grad


def identity(cond: Any) -> tuple[Any, ...]:
    """What tells conditioning from another: memory and writes of tensors, values of numbers, else the object."""
    leaves, form = tree_flatten(cond)
    known: list[Any] = [form]
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            known.append(known_by(leaf))
        else:
            known.append(leaf if isinstance(leaf, str | int | float | bool | None) else id(leaf))
    return tuple(known)
