"""torch.func and forward-mode AD: what they see through, and what they must not meet."""

import torch
import torch._C._functorch as functorch
from torch import Tensor
from torch.autograd import forward_ad


def transform() -> str:
    """The transform that is differentiating or vectorising the caller; "" outside any."""
    level = functorch.peek_interpreter_stack()
    if level is not None:
        return f"a torch.func transform ({level.key().name.lower()})"
    return "forward-mode AD" if forward_ad._current_level >= 0 else ""


def check_not_traced() -> None:
    """Raise ValueError inside torch.func.linearize, whose trace of a dual tensor that is added to in place ends the
    interpreter (a segmentation fault of torch 2.13).
    """
    if torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None:
        raise ValueError(
            "sample: got a trace of the run (torch.func.linearize, make_fx), expected plain tensors; use "
            "pullback.adjoint.linearised, or torch.func.jvp"
        )


def bare(x: Tensor) -> Tensor:
    """The tensor under every wrapper of torch.func: vmap cannot branch on the wrapped one."""
    while functorch.is_functorch_wrapped_tensor(x):
        x = functorch.get_unwrapped(x)
    return x


def finite(x: Tensor) -> bool:
    """Whether every entry is finite, of every sample that vmap stands for."""
    values = bare(x.detach())
    # a sum that is finite has no term that is not, and takes a tenth of the time; a sum may overflow where none is
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())
