"""Peak: the most bytes that tensors take while something runs."""

from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Peak(TorchDispatchMode):
    """Peak bytes above the start: of live tensors on the CPU, where one counts storages op by op, of the
    allocator on a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.most, self.total = device, 0, 0
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}

    @property
    def bytes(self) -> int:
        """The most so far."""
        if self.device.type != "cuda":
            return self.most
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) - self.before

    @property
    def held(self) -> int:
        """What is alive now of all that was made since the start."""
        if self.device.type != "cuda":
            self._forget_the_dead()
            return self.total
        torch.cuda.synchronize(self.device)
        return torch.cuda.memory_allocated(self.device) - self.before

    def __enter__(self) -> "Peak":
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device)
        else:
            super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.device.type != "cuda":
            super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and not self._knows(leaf.untyped_storage()):
                # it was there before, as weights are: a view of it is nothing new
                storage = leaf.untyped_storage()
                self.live[storage._cdata] = StorageWeakRef(storage), 0
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and not self._knows(storage := leaf.untyped_storage()):
                self.total += storage.nbytes() - self.live.get(storage._cdata, (None, 0))[1]
                self.live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        if self.total > self.most:  # only a new peak is worth looking for the dead
            self._forget_the_dead()
            self.most = max(self.most, self.total)
        return out

    def _knows(self, storage: torch.UntypedStorage) -> bool:
        known = self.live.get(storage._cdata)
        return known is not None and not known[0].expired()

    def _forget_the_dead(self) -> None:
        self.live = {key: pair for key, pair in self.live.items() if not pair[0].expired()}
        self.total = sum(size for _, size in self.live.values())
