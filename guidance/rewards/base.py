"""Rewards: what a sample is worth, (B,), and how rewards are combined."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from ...adjoint.transforms import finite
from ...solvers.checked import CheckedFields
from ...solvers.cut_off import cut_off
from ...solvers.wanted import Wanted
from .values import as_values

# where no gradient is needed a list or an array of B numbers is taken too
RewardFunction = Annotated[
    Callable[[Tensor, Any], Tensor],
    Wanted("a function of (samples, context) to (B,); pass lambda x, context: ..., or a Reward()"),
]


class Reward(CheckedFields, ABC):
    """reward(samples, context) -> (B,), larger is better. Compose with `+`, `-`, `*`, `.clip` and `.normalise`.

    samples are (B, ...), context whatever the reward wants beside them (labels, prompts, embeddings). A
    sample's reward never depends on its batch mates. It leaves in float32 or wider, so that sums of rewards in half
    precision do not round. Plain callables with the same signature are welcome on
    either side of `+`, `-` and `*`; they count as differentiable. Subclasses write `score`; the checks are
    here.

    Raises:
        ValueError: samples without a batch axis; a result that is not (B,); samples that require grad where
            the reward is not differentiable, or where it is and its result has no graph. FloatingPointError:
            a reward that is not finite.

    Cost: what `score` costs, and one synchronisation with the device for the check that all is finite, of a sum as a
    whole.
    """

    @property
    def differentiable(self) -> bool:
        """Whether a gradient at the samples exists and is what direct objectives (DRaFT, Adjoint Matching) may use."""
        return True

    @abstractmethod
    def score(self, samples: Tensor, context: Any) -> Tensor:
        """(B,) from samples (B, ...), unchecked."""

    def scored(self, samples: Tensor, context: Any = None) -> Tensor:
        """`score` with shape, width and graph checked, and nothing that waits for the device: for whoever looks
        at the numbers once, at the end of a sum.
        """
        name = type(self).__name__
        if samples.ndim < 2 or not samples.is_floating_point():
            raise ValueError(
                f"{name}: got samples of shape {tuple(samples.shape)} and {samples.dtype}, expected floating "
                "point (B, ...) with a batch axis; add it with samples[None]"
            )
        wanted = samples.requires_grad and torch.is_grad_enabled()
        if wanted and not self.differentiable:
            raise ValueError(
                f"{name}: got samples that require grad, expected detached ones: this reward has no "
                "gradient; use an objective of the score-function family (DDPO, DPOK, GRPO), or pass "
                "samples.detach()"
            )
        value = as_values(name, self.score(samples, context), samples)
        if value.shape != samples.shape[:1]:
            raise ValueError(
                f"{name}: got a reward of shape {tuple(value.shape)}, expected ({len(samples)},): one per "
                "sample; reduce over every axis but the first"
            )
        if wanted and not value.requires_grad:
            raise ValueError(
                f"{name}: got a reward without a graph for samples that require grad, expected one; remove "
                "no_grad and detach inside the reward, or declare it with FunctionReward(fn, "
                "has_gradient=False)"
            )
        return value

    def __call__(self, samples: Tensor, context: Any = None) -> Tensor:
        name, value = type(self).__name__, self.scored(samples, context)
        if not finite(value):
            bad = (~torch.isfinite(value.detach())).nonzero().flatten().tolist()
            raise FloatingPointError(
                f"{name}: not finite for samples {bad} of the batch, expected finite rewards; bound it with "
                ".clip(lo, hi) if it is infinite, look at these samples if it is NaN"
            )
        return value

    def __add__(self, other: "Reward | RewardFunction | float | int") -> "Reward":
        return (
            Affine(self, 1.0, float(other))
            if isinstance(other, (int, float))
            else RewardSum(self, as_reward(other))
        )

    def __radd__(self, other: "RewardFunction | float | int") -> "Reward":
        return self + other

    def __neg__(self) -> "Reward":
        return Affine(self, -1.0)

    def __sub__(self, other: "Reward | RewardFunction | float | int") -> "Reward":
        return self + (-other if isinstance(other, (int, float)) else -as_reward(other))

    def __rsub__(self, other: "RewardFunction | float | int") -> "Reward":
        return -self + other

    def __mul__(self, other: "Reward | RewardFunction | float | int") -> "Reward":
        return (
            Affine(self, float(other))
            if isinstance(other, (int, float))
            else RewardProduct(self, as_reward(other))
        )

    def __rmul__(self, other: "RewardFunction | float | int") -> "Reward":
        return self * other

    def clip(self, lo: float = -float("inf"), hi: float = float("inf")) -> "Reward":
        """min(max(r, lo), hi): a bound against reward hacking. No gradient outside [lo, hi]."""
        return Clipped(self, lo, hi)

    def normalise(self, mean: float, std: float) -> "Reward":
        """(r - mean) / std, with figures of the base model: then weights of a sum are comparable."""
        if not std > 0:
            raise ValueError(
                f"normalise: got std={std}, expected a number > 0; measure it over samples of the base model"
            )
        return Affine(self, 1 / std, -mean / std)


@dataclass(frozen=True, eq=False)
class FunctionReward(Reward):
    """A plain callable fn(samples, context) -> (B,) as a Reward; lists and arrays of B numbers are taken too.

    Args:
        has_gradient: whether there is a gradient at the samples; False is what objectives that need one
            refuse.
    """

    fn: RewardFunction
    has_gradient: bool = True

    @property
    def differentiable(self) -> bool:
        return self.has_gradient

    def score(self, samples: Tensor, context: Any) -> Any:
        return self.fn(samples, context)


@dataclass(frozen=True, eq=False)
class _Changed(Reward):
    """Another reward, changed."""

    reward: Reward

    @property
    def differentiable(self) -> bool:
        return self.reward.differentiable


@dataclass(frozen=True, eq=False)
class Affine(_Changed):
    """scale * r + shift."""

    scale: float
    shift: float = 0.0

    def score(self, samples: Tensor, context: Any) -> Tensor:
        return self.scale * self.reward.scored(samples, context) + self.shift


@dataclass(frozen=True, eq=False)
class Clipped(_Changed):
    """min(max(r, lo), hi): an infinite r counts as its bound."""

    lo: float
    hi: float

    def __post_init__(self) -> None:
        if not self.lo < self.hi:
            raise ValueError(f"clip: got lo={self.lo}, hi={self.hi}, expected lo < hi")

    def score(self, samples: Tensor, context: Any) -> Tensor:
        return cut_off(self.reward.scored(samples, context), self.lo, self.hi)


@dataclass(frozen=True, eq=False)
class _Pair(Reward):
    """Two rewards in one. Differentiable where both are: the gradient of one alone would ascend another
    reward than was asked for.
    """

    a: Reward
    b: Reward

    @property
    def differentiable(self) -> bool:
        return self.a.differentiable and self.b.differentiable


class RewardSum(_Pair):
    """a + b."""

    def score(self, samples: Tensor, context: Any) -> Tensor:
        return self.a.scored(samples, context) + self.b.scored(samples, context)


class RewardProduct(_Pair):
    """a * b."""

    def score(self, samples: Tensor, context: Any) -> Tensor:
        return self.a.scored(samples, context) * self.b.scored(samples, context)


def as_reward(reward: Reward | RewardFunction) -> Reward:
    """A Reward as it is, a plain callable as a FunctionReward."""
    return reward if isinstance(reward, Reward) else FunctionReward(reward)
