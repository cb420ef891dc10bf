"""What stands around a network, as far as a gradient must know: FSDP, torch.compile."""

from ..solvers import Model
from .parameters import parameters


def is_sharded(model: Model) -> bool:
    """Whether parameters are spread over processes (FSDP)."""
    return any(hasattr(value, "device_mesh") for value in parameters(model).values())


def is_compiled(model: Model) -> bool:
    """Whether torch.compile stands around any of the model's modules."""
    return any(
        "_orig_mod" in module._modules or vars(module).get("_compiled_call_impl") is not None
        for network in model.networks()
        for module in network.modules()
    )
