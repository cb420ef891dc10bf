"""A chain of Gaussian steps bound to a batch: means and deviations at visited states, one step's graph at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ...adjoint import PerStep, trajectory
from ...adjoint.cond import at_step
from ...solvers import Model, Plan, Transitions
from ...solvers.loop import predict
from ...solvers.program import Program, Value, prepare
from .objective import Batch, Policy


@dataclass(frozen=True, eq=False)
class Chain:
    """Transitions of a plan under `model` for one batch and conditioning."""

    transitions: Transitions
    program: Program
    model: Model
    cond: Any
    like: Tensor

    @classmethod
    def of(cls, plan: Plan, model: Model, like: Tensor, cond: Any = None) -> "Chain":
        """Bound to states like `like` (B, ...)."""
        like = like.detach().to(torch.promote_types(like.dtype, torch.float32))
        return cls(Transitions(plan), prepare(plan, model, like), model, cond, like)

    def mean(self, states: Sequence[Tensor] | Tensor, step: int) -> Tensor:
        """m_k (B, ...) at visited states, differentiable. Cost: the step's network calls, and those of a
        multistep history.
        """
        return self.transitions.mean(self.program, self._evaluate, states, step)

    def std(self, step: int) -> Value:
        """s_k: a number, or (B, 1, ...) for a stacked plan."""
        return self.transitions.std(step, self.like)

    def _evaluate(self, call: Any, x: Tensor) -> Tensor:
        return predict(self.model, call, x, at_step(self.cond, call.step))


def visited(policy: Policy, batch: Batch) -> Tensor:
    """The states (N + 1, B, ...) of the policy's rollout, x_0 = the starting noise first, without a graph."""
    plan = policy.plan
    with torch.no_grad():
        return torch.stack(
            trajectory(
                policy.denoiser,
                plan,
                batch.x,
                range(plan.steps + 1),
                cond=batch.cond,
                noise=batch.noise,
                gradient=None,
            )
        )


def rows(cond: Any, index: Tensor, size: int) -> Any:
    """`cond` of the samples `index` out of `size`; raises ValueError where a tensor in it has no row for each
    of them.
    """

    def pick(leaf: Any) -> Any:
        if isinstance(leaf, PerStep):
            _check(leaf.values.shape[1:2], size)
            return PerStep(leaf.values[:, index])
        if isinstance(leaf, Tensor):
            _check(leaf.shape[:1], size)
            return leaf[index]
        return leaf

    return tree_map(pick, cond, is_leaf=lambda leaf: isinstance(leaf, PerStep))


def _check(shape: torch.Size, size: int) -> None:
    if tuple(shape) != (size,):
        raise ValueError(
            f"cond: got a tensor with {tuple(shape)} rows, expected one for each of {size} samples to split "
            "the batch; expand it, or use minibatches=1"
        )
