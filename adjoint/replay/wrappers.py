"""What stands around a network, as far as a gradient must know: FSDP, DDP, offloading, torch.compile, checkpoints."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ...solvers import Model

# nodes of a network's graph whose backward does more than differentiate
NODES = {
    "RegisterPostBackwardFunctionBackward": "sharded parameters (FSDP)",
    "_DDPSinkBackward": "DistributedDataParallel with static_graph or find_unused_parameters",
    "CheckpointFunctionBackward": "torch.utils.checkpoint with use_reentrant=True",
}


def is_sharded(model: Model) -> bool:
    """Whether parameters are spread over processes (FSDP). What FSDP 2 has gathered for a call it may leave so."""
    kinds = {type(module) for module in _modules(model)}
    return any(hasattr(value, "device_mesh") for value in model.parameters()) or any(
        {"FSDPModule", "FullyShardedDataParallel"} & {each.__name__ for each in kind.__mro__}
        for kind in kinds
    )


def is_compiled(model: Model) -> bool:
    """Whether torch.compile stands around any of the model's modules."""
    return any(
        "_orig_mod" in module._modules or vars(module).get("_compiled_call_impl") is not None
        for module in _modules(model)
    )


def replicas(model: Model) -> list[DistributedDataParallel]:
    """The modules that average gradients over processes by hooks on their parameters."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return []
    return [module for module in _modules(model) if isinstance(module, DistributedDataParallel)]


def hooked(model: Model) -> str:
    """What around the network acts in autograd's own walk over its graph, as far as can be seen before a call; ""
    if nothing does. A replay that is differentiated by itself would set it off too early, or never.
    """
    if is_sharded(model):
        return "sharded parameters (FSDP)"
    for ddp in replicas(model):
        if ddp.static_graph or ddp.find_unused_parameters:
            return NODES["_DDPSinkBackward"]
    if any(value.is_meta and value.requires_grad for value in model.parameters()):
        return (
            "parameters that require grad and that a hook brings in for each call (accelerate's cpu_offload)"
        )
    return ""


def hooked_graph(out: Tensor) -> str:
    """As `hooked`, for what only the graph of a call's output tells."""
    stack: list[Any] = [out.grad_fn]
    seen: set[Any] = {None}
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            if type(node).__name__ in NODES:
                return NODES[type(node).__name__]
            stack += [edge for edge, _ in node.next_functions]
    return ""


def _modules(model: Model) -> Iterator[nn.Module]:
    for network in model.networks():
        yield from network.modules()
