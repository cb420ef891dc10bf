"""Reads: whether a network looks at the numbers of a tensor, to go another way by them.

`if t[0] > 0.5:` is right where t is one number for all rows. Of rows of several steps it takes the first for all, and
no output tells: the steps in the middle alone may be meant.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

SCALAR = torch.ops.aten._local_scalar_dense.default  # where item(), bool() and float() end
WHOLE = {Tensor.tolist, Tensor.numpy, Tensor.__array__}  # these pass the dispatcher by


class Reads:
    """Counts what was read while it is `watching`."""

    def __init__(self) -> None:
        self.count = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Around a call of the network."""
        with _Dispatched(self), _Called(self):
            yield


class _Dispatched(TorchDispatchMode):
    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.reads.count += func is SCALAR
        return func(*args, **(kwargs or {}))


class _Called(TorchFunctionMode):
    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.reads.count += func in WHOLE
        return func(*args, **(kwargs or {}))
