"""What `optimise` changes, as leaves of a graph: made, found, clipped, and let go."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ...adjoint import PerStep
from ...solvers import Noise, Plan
from ...solvers.broadcast import per_sample


def _is_per_step(leaf: Any) -> bool:
    return isinstance(leaf, PerStep)


def variable(leaf: Any) -> Any:
    """A leaf of conditioning as a variable of its own; what is not a floating point tensor stays as it is."""
    if isinstance(leaf, PerStep):
        return PerStep(leaf.values.detach().clone().requires_grad_())
    if isinstance(leaf, Tensor) and leaf.is_floating_point():
        return leaf.detach().clone().requires_grad_()
    return leaf


def tensors(cond: Any) -> list[Tensor]:
    """The variables in `cond`."""
    found = (
        leaf.values if isinstance(leaf, PerStep) else leaf for leaf in tree_leaves(cond, is_leaf=_is_per_step)
    )
    return [leaf for leaf in found if isinstance(leaf, Tensor) and leaf.requires_grad]


def as_tensor(noise: Noise | Tensor | None, plan: Plan, x: Tensor) -> Tensor:
    """Every draw of `plan` as one tensor (slots, B, ...)."""
    if noise is None or not plan.slots:
        raise ValueError(
            f"optimise over noise: got noise={noise} and a plan with {plan.slots} noise slots, expected a "
            "stochastic plan and noise=Addressed(seed) or a tensor (slots, B, ...)"
        )
    if isinstance(noise, Tensor):
        return noise.detach().clone()
    noise.check(plan.slots, x)
    return torch.stack([noise(slot, x.detach()) for slot in range(plan.slots)])


def clip_(own: Sequence[Tensor | None], shared: Sequence[Tensor | None], most: float) -> None:
    """Scale gradients in place to norm `most` where they exceed it: row by row over `own` (B, ...), and
    `shared` as a whole.
    """
    rows = [g for g in own if g is not None]
    if rows:
        norm = torch.stack([g.flatten(1).norm(dim=1) for g in rows]).norm(dim=0)
        scale = (most / norm.clamp(min=most)).to(norm)
        for g in rows:
            g.mul_(per_sample(scale, g))
    others = [g for g in shared if g is not None]
    if others:
        norm = torch.stack([g.norm() for g in others]).norm()
        for g in others:
            g.mul_(most / norm.clamp(min=most))


def detached(tree: Any) -> Any:
    """`tree` without graphs."""

    def free(leaf: Any) -> Any:
        if isinstance(leaf, PerStep):
            return PerStep(leaf.values.detach())
        return leaf.detach() if isinstance(leaf, Tensor) else leaf

    return tree_map(free, tree, is_leaf=_is_per_step)
