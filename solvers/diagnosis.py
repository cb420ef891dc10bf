"""Why a network could not be called: the usual reasons, looked for only once it has failed."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .kinds import described

# what wrong input makes a network raise; running out of memory is none of it, and passes as it is
USUAL = (TypeError, ValueError, IndexError, AttributeError, KeyError, RuntimeError)


def diagnosis(
    error: Exception, network: Callable[..., Any], modules: list[nn.Module], x: Any, t: Tensor, cond: Any
) -> str | None:
    """What is wrong with (x, t, cond), as got, expected and what to change; None where it is not known."""
    if isinstance(error, torch.OutOfMemoryError) or not isinstance(x, Tensor) or ", expected " in str(error):
        return None
    reasons = (
        _number_of_arguments(error, network, cond),
        _kind_of_cond(cond),
        _batch_of_cond(x, cond),
        _whole_labels(error, modules, t, cond),
        _device(modules, x, cond),
        _dtype(error, modules, x, cond),
    )
    return next((reason for reason in reasons if reason), None)


def described_call(x: Any, t: Tensor, cond: Any) -> str:
    """The arguments of a call in a line."""
    tensors = [described(leaf) for leaf in tree_leaves(cond) if isinstance(leaf, Tensor)]
    return f"x {described(x)}, t {described(t)}, cond {', '.join(tensors) or described(cond)}"


def _number_of_arguments(error: Exception, network: Callable[..., Any], cond: Any) -> str | None:
    if not isinstance(error, TypeError):
        return None
    try:
        signature = inspect.signature(network.forward if isinstance(network, nn.Module) else network)
    except (TypeError, ValueError):
        return None
    given = (0, 0) if cond is None else (0, 0, 0)
    try:
        signature.bind(*given)
        return None
    except TypeError as mismatch:
        if cond is None:
            return (
                f"cond: got None for a network that takes {signature} ({mismatch}), expected what it needs besides x "
                "and t; pass cond=, or call=lambda network, x, t, cond: ... that fills it in"
            )
        return (
            f"cond: got {described(cond)} for a network that takes {signature} ({mismatch}), expected one that takes "
            "(x, t, cond); leave cond out, or pass call=Keywords() where it takes conditioning by name"
        )


def _kind_of_cond(cond: Any) -> str | None:
    if isinstance(cond, Mapping):
        return (
            f"cond: got a dict with {sorted(map(str, cond))}, which the network was given as its third argument, "
            "expected what it takes there; pass Denoiser(..., call=Keywords()) where these are names of its arguments"
        )
    found = tree_leaves(cond)
    if found and all(isinstance(leaf, int | float) for leaf in found):
        return f"cond: got {described(cond)} of numbers, expected a tensor; pass torch.tensor({cond})"
    return None


def _batch_of_cond(x: Tensor, cond: Any) -> str | None:
    for k, leaf in enumerate(_tensors(cond)):
        if leaf.ndim and len(leaf) not in (1, len(x)) and leaf.shape != x.shape[-leaf.ndim :]:
            return (
                f"cond[{k}]: got shape {tuple(leaf.shape)}, expected a first axis of {len(x)}, the batch of x, or one "
                "that broadcasts; pass one conditioning for each sample, or a single one for all"
            )
    return None


def _whole_labels(error: Exception, modules: list[nn.Module], t: Tensor, cond: Any) -> str | None:
    tables = any(isinstance(module, nn.Embedding) for each in modules for module in each.modules())
    if not tables or "indices" not in str(error):
        return None
    floats = [leaf for leaf in _tensors(cond) if leaf.is_floating_point()]
    what = "t or cond" if floats else "t"
    return (
        f"{what}: got {t.dtype} where the network looks labels up in a table, expected whole numbers; pass "
        f"{'integer labels as cond, or ' if floats else ''}Denoiser(..., label=WholeLabels()) and a grid of whole times"
    )


def _device(modules: list[nn.Module], x: Tensor, cond: Any) -> str | None:
    home = next((p.device for each in modules for p in each.parameters()), None)
    for name, value in (("x", x), *((f"cond[{k}]", leaf) for k, leaf in enumerate(_tensors(cond)))):
        if home is not None and value.device != home and value.ndim:
            return f"{name}: got a tensor on {value.device}, expected {home}, where the network is; move it there"
    return None


def _dtype(error: Exception, modules: list[nn.Module], x: Tensor, cond: Any) -> str | None:
    if "dtype" not in str(error) and "type" not in str(error):
        return None
    found = {p.dtype for each in modules for p in each.parameters() if p.is_floating_point()}
    if len(found) == 1:
        (wanted,) = found
        if x.dtype != wanted:
            half = wanted in (torch.float16, torch.bfloat16)  # in which no state is carried
            remedy = f"write Denoiser(..., dtype={wanted})" if half else f"pass x.to({wanted})"
            return f"x: got {x.dtype}, expected {wanted}, that of the network's parameters; {remedy}"
        for k, leaf in enumerate(_tensors(cond)):
            if leaf.is_floating_point() and leaf.dtype != wanted:
                return (
                    f"cond[{k}]: got {leaf.dtype}, expected {wanted}, that of the network's parameters; cast it, or "
                    f"pass call=CastCond({wanted})"
                )
    return None


def _tensors(cond: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(cond) if isinstance(leaf, Tensor))
