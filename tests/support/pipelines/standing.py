"""How a pipeline stands: everything that a run could leave changed in it."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

Standing = dict[str, Any]
# What the networks' own calls write on them, whoever makes them: diffusers' cache contexts, the frames that a causal
# VAE keeps, the weight that `weight_norm` computes.
FRAMES = frozenset(f"_{part}{name}" for part in ("", "enc_") for name in ("conv_idx", "conv_num", "feat_map"))
WORKING = FRAMES | {"_diffusers_hook", "weight"}


def standing(pipe: Any) -> Standing:
    """By place, e.g. "unet.mid_block.attentions.0: processor": what stands there, tensors and mutable values as they
    are now, everything else by its identity.

    Of every module of every network: its attributes (attention processors, hooks, `training`, a forward put in its
    place), its parts by identity, and of its weights dtype, device, count of writes and `requires_grad`. Of the
    pipeline: its attributes and configuration. Of its scheduler, tokenizers and other helpers: their state.
    """
    found: Standing = {f": {name}": _noted(value) for name, value in vars(pipe).items()}
    found |= {f": config {name}": _noted(value) for name, value in pipe.config.items()}
    for name, part in pipe.components.items():
        if isinstance(part, nn.Module):
            found |= _network(name, part)
        elif hasattr(part, "__dict__"):
            found |= {f"{name}: {key}": _noted(value) for key, value in vars(part).items()}
    return found


def changes(before: Standing, after: Standing) -> list[str]:
    """The places that are not what they were."""
    gone = object()
    return sorted(
        place for place in before.keys() | after.keys()
        if not _same(before.get(place, gone), after.get(place, gone))
    )  # fmt: skip


def _network(name: str, network: nn.Module) -> Standing:
    config = getattr(network, "config", None)
    told = config if isinstance(config, dict) else vars(config) if config is not None else {}
    found: Standing = {f"{name}: config {key}": _noted(value) for key, value in told.items()}
    for path, module in network.named_modules():
        place = f"{name}.{path}" if path else name
        parts = ("_parameters", "_buffers", "_modules")
        own = {key: value for key, value in vars(module).items() if key not in WORKING.union(parts)}
        found |= {f"{place}: {key}": _noted(value) for key, value in own.items()}
        for key, child in module._modules.items():
            found[f"{place}: child {key}"] = id(child)
        for key, value in (*module._parameters.items(), *module._buffers.items()):
            if value is not None:
                told = (id(value), value.dtype, value.device, value._version, value.requires_grad)
                found[f"{place}: weight {key}"] = told
    return found


def _noted(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, str | int | float | bool | None | torch.dtype | torch.device):
        return value
    if type(value) in (list, tuple):
        return [id(value), *map(_noted, value)]
    if isinstance(value, dict):
        return [id(value), {copy.copy(key): _noted(each) for key, each in value.items()}]
    return id(value)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return type(a) is type(b) and bool(a == b)
