"""Chain: the Gaussian steps x_{k+1} = m_k + s_k xi_k of a plan under one model, at states that were visited."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ...adjoint import PerStep, trajectory
from ...adjoint.arguments import noise_for
from ...solvers import Model, Plan, Transitions
from ...solvers.loop import predict
from ...solvers.notebook import Shown
from ...solvers.per_step import at_step
from ...solvers.program import Program, prepare
from .objective import Batch, Experience, Policy
from .requirements import require_reference


@dataclass(frozen=True, eq=False, repr=False)
class Chain(Shown):
    """The means m_k and standard deviations s_k of a plan's steps under `model`, for one batch and conditioning.

    Each call builds the graph of one step only, so that losses over a whole path need the memory of one step.
    """

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

    def std(self, step: int) -> Tensor | float:
        """s_k: a number, or (B, 1, ...) for a stacked plan."""
        return self.transitions.std(step, self.like)

    def _evaluate(self, call: Any, x: Tensor) -> Tensor:
        return predict(self.model, call, x, at_step(self.cond, call.step))


def reference_chain(policy: Policy, like: Tensor, cond: Any = None) -> Chain:
    """The chain that the KL penalty compares with: the same plan under the policy's frozen reference."""
    return Chain.of(policy.plan, require_reference(policy, "for the KL penalty"), like, cond)


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
                noise=noise_for(plan, batch.noise),
                gradient=None,
            )
        )


def samples_of(experience: Experience, part: Tensor) -> tuple[Tensor, Any]:
    """(states (N + 1, P, ...), conditioning) of the samples with indices `part` (P,) of a rollout."""
    states, cond, size = experience.states, experience.batch.cond, len(experience.reward)
    assert states is not None
    if len(part) == size:
        return states, cond
    return states[:, part], select_samples(cond, part, size)


def select_samples(cond: Any, index: Tensor, size: int) -> Any:
    """The conditioning of the samples `index` out of `size`; ValueError where a tensor in it has no row for
    each of them.
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
