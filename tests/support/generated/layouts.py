"""What form a state has: one tensor, or a nesting of several, which the network then sees and returns."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .networks import Network


class Layout:
    """One tensor."""

    def pack(self, x: Tensor) -> Any:
        """(..., FEATURES) in this form."""
        return x

    def unpack(self, tree: Any) -> Tensor:
        """And back."""
        return tree

    def network(self, network: Network) -> Network:
        """The network of one tensor as a network of this form."""
        return network


@dataclass(frozen=True)
class Parts(Layout):
    """A dict of a tensor and of a list with another: an image and its sound."""

    def pack(self, x: Tensor) -> Any:
        return {"image": x[..., :2], "more": [x[..., 2:]]}

    def unpack(self, tree: Any) -> Tensor:
        return torch.cat([tree["image"], tree["more"][0]], -1)

    def network(self, network: Network) -> Network:
        return lambda tree, *args: self.pack(network(self.unpack(tree), *args))


WHOLE, PARTS = Layout(), Parts()
