"""A network put together from ingredients, each of which is something that users' networks have."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

FEATURES, WIDTH, CLASSES = 3, 6, 4
MIDDLE = 0.45  # of the times of all generated plans: what late calls are later than


@dataclass(frozen=True)
class Ingredient:
    """One thing that a network has. What it owns lies in the network, so that every network starts anew.

    Attributes:
        ordinary: whether every exact strategy owes the right answer; an error is as wrong as a number.
    """

    ordinary = True

    def attach(self, net: "Body") -> None:
        """Give the network what this needs."""

    def entering(self, net: "Body", x: Tensor) -> Tensor:
        """What becomes of the state that the network gets."""
        return x

    def hidden(self, net: "Body", h: Tensor, t: Tensor) -> Tensor:
        """What becomes of the hidden features (B, WIDTH) at times t (B,)."""
        return h

    def leaving(self, net: "Body", out: Tensor) -> Tensor:
        """What becomes of the output."""
        return out

    def seen(self, net: "Body") -> dict[str, Tensor]:
        """What must be as after a plain loop, besides sample and gradients."""
        return {}


class Body(nn.Module):
    """out = leave(ingredients(tanh(enter([x, t])) + what cond holds)).

    Args:
        plainly: as a plain loop should have it: nothing that only an optimisation of the user's could tell.

    Attributes:
        captured: leaves that no module knows of.
        own: Python state, by ingredient.
        gain, mask: what no record can know of.
        kept: features that the loss uses too.
    """

    def __init__(self, ingredients: tuple[Ingredient, ...], dtype: torch.dtype, plainly: bool) -> None:
        super().__init__()
        self.ingredients, self.plainly, self.dtype = ingredients, plainly, dtype
        self.enter, self.leave = nn.Linear(FEATURES + 1, WIDTH), nn.Linear(WIDTH, FEATURES)
        self.table = nn.Embedding(CLASSES, WIDTH)
        self.parts = nn.ModuleDict()
        self.captured: dict[str, Tensor] = {}
        self.own: dict[Any, Any] = {}
        self.gain, self.mask, self.kept = 1.0, torch.ones(WIDTH), list[Tensor]()
        for ingredient in ingredients:
            ingredient.attach(self)

    def capture(self, name: str, *shape: int) -> Tensor:
        """A leaf that no module knows of."""
        leaf = (0.5 * torch.randn(*shape, dtype=self.dtype)).requires_grad_()
        self.captured[name] = leaf
        return leaf

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        for ingredient in self.ingredients:
            x = ingredient.entering(self, x)
        h = torch.tanh(self.enter(torch.cat([x.flatten(1), t[:, None].to(x)], 1)))
        h = h * self.mask.to(h)
        for leaf in tree_leaves(cond):
            if isinstance(leaf, Tensor):
                h = h + (leaf.to(h) if leaf.is_floating_point() else self.table(leaf.long() + 0))
        for ingredient in self.ingredients:
            h = ingredient.hidden(self, h, t)
        out = (self.leave(h) * self.gain).reshape(x.shape)
        for ingredient in self.ingredients:
            out = ingredient.leaving(self, out)
        return out

    def seen(self) -> dict[str, Tensor]:
        """What the ingredients watch."""
        found: dict[str, Tensor] = {}
        for ingredient in self.ingredients:
            found |= ingredient.seen(self)
        return found


def late(t: Tensor) -> bool:
    """Whether a call is one of the late ones, near the data."""
    return float(t.detach().reshape(-1)[0]) < MIDDLE if len(t) else False


class Wrapped:
    """An object with the network somewhere inside, called through a method."""

    def __init__(self, net: Body) -> None:
        self.inside = {"models": [net]}

    def predict(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return self.inside["models"][0](x, t, cond)


Network = Callable[..., Tensor]
