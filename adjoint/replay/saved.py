"""Saved: what a graph saves while it is built."""

from collections.abc import Iterable

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


class Saved(saved_tensors_hooks):
    """Inside, every storage that autograd saves is noted, once, however many of its views are saved."""

    def __init__(self) -> None:
        self.storages: dict[int, int] = {}  # place -> bytes
        super().__init__(self._noted, lambda tensor: tensor)

    def _noted(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self.storages[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # a node that holds its own output never dies

    def bytes(self, besides: Iterable[Tensor]) -> int:
        """How much that is, but for `besides`: what is there whether or not a graph saves it."""
        there = {tensor.untyped_storage().data_ptr() for tensor in besides}
        return sum(nbytes for place, nbytes in self.storages.items() if place not in there)
