"""Whether a model can be seen through: nothing stays of a call but its output, as far as one can look.

Calls of such a model need no graph in the forward pass: what the first call reached, every call must reach, and the
replays are held to it. A network that keeps tensors, is hooked or is a plain function may reach others later, fill
a memo, or let features out; its calls are made with a graph and walked.
"""

from collections import OrderedDict
from collections.abc import Collection, Mapping
from functools import partial
from types import FunctionType, MethodType, NoneType
from typing import Any

from torch import Tensor, nn

from ...solvers import ClassifierFree, Denoiser, Model
from .bound_model import BoundModel
from .plain_state import draws, plain_state

OWN = {"_parameters", "_buffers", "_modules"}  # of a module: declared
PLAIN, EMPTIED = {bool, int, float, str, NoneType}, {dict, OrderedDict, list, set}


def transparent(model: Model, before: Any, functions: Collection[Any] = ()) -> bool:
    """Whether `model` is a module behind our own classes, without forward hooks, that holds no tensor or function of
    unknown origin among its attributes, and whose first call changed none of its flags: one that counts its calls may
    take another path, or detach, at a later one. To be asked after the first call.

    Args:
        before: its `plain_state` before that call.
        functions: of its predictions, which may hold tensors too.
    """
    if any(isinstance(fn, nn.Module) or _opaque(fn) for fn in functions):
        return False
    return before == plain_state(model) and not draws(model) and _declared(model)


def _declared(model: Model) -> bool:
    if type(model) is BoundModel:
        return _declared(model.model)
    if type(model) is ClassifierFree:
        return _declared(model.denoiser) and not _opaque(model.null)
    if type(model) is not Denoiser or not isinstance(model.network, nn.Module) or model.modules:
        return False
    held = (value for name, value in vars(model).items() if name not in ("network", "process"))
    return not any(map(_opaque, held)) and not any(map(_keeps, model.network.modules()))


def _keeps(module: nn.Module) -> bool:
    attributes = vars(module)
    return (
        bool(module._forward_hooks or module._forward_pre_hooks)
        or "forward" in attributes
        or any(_opaque(value) for name, value in attributes.items() if name not in OWN and _tells(value))
    )


def _tells(value: Any) -> bool:
    """Quickly: a module has two dozen attributes, nearly all of them flags and empty dicts of hooks."""
    kind = type(value)
    return not (kind in PLAIN or kind in EMPTIED and not value)


def _opaque(value: Any, depth: int = 4) -> bool:
    """Whether `value` is, or leads to, a tensor or a function that holds something."""
    if isinstance(value, (Tensor, MethodType, partial)):
        return True
    if value is None or isinstance(value, (bool, int, float, str, type, nn.Module)):
        return False
    if isinstance(value, FunctionType):
        return value.__closure__ is not None
    if depth == 0:
        return True
    if isinstance(value, Mapping):
        return any(_opaque(item, depth - 1) for item in value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return any(_opaque(item, depth - 1) for item in value)
    return any(_opaque(item, depth - 1) for item in getattr(value, "__dict__", {}).values())
