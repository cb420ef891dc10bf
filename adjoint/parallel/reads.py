"""Reads: whether a network looks at numbers that differ from step to step, to go another way by them.

`if t[0] > 0.5:` is right where t is one number for all rows. Of rows of several steps it takes the first for all, and
no output tells: steps in the middle alone may be meant. What comes of conditioning that is the same at all steps may be
looked at, as one_hot looks for the largest label.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

ATEN = torch.ops.aten
# where item(), bool() and float() end, and what answers with a bool at once
READS = {ATEN._local_scalar_dense.default, ATEN.equal.default, ATEN.allclose.default}
WHOLE = {Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__dlpack__}  # these pass the dispatcher by


class Reads:
    """Counts how often numbers of `tensors`, or of what is computed from them, are read while it is `watching`."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.count = 0
        self._known = WeakTensorKeyDictionary({tensor: True for tensor in tensors})

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Around a call of the network."""
        with _Dispatched(self), _Called(self):
            yield

    def from_known(self, args: Any) -> bool:
        """Whether one of the tensors in `args` comes of those that are followed."""
        return any(isinstance(leaf, Tensor) and leaf in self._known for leaf in tree_leaves(args))

    def follow(self, out: Any) -> None:
        """Follow what is in `out` too."""
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._known[leaf] = True


class _Dispatched(TorchDispatchMode):
    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if self.reads.from_known((args, kwargs)):
            self.reads.count += func in READS
            self.reads.follow(out)
        return out


class _Called(TorchFunctionMode):
    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.reads.count += func in WHOLE and self.reads.from_known(args)
        return func(*args, **(kwargs or {}))
