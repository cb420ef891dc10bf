"""Rewards as objectives and the trainer ask for them: every answer checked, and where it is wrong, the reward named."""

import time
from typing import Any, NoReturn

import torch
from torch import Tensor

from ...solvers.checked import checked
from ...solvers.wanted import Samples
from .base import Reward, RewardFunction
from .values import as_values

NOT_FINITE = "not finite: "  # how trouble of that kind begins


@checked
def evaluate_reward(
    reward: RewardFunction, samples: Samples, context: Any = None, differentiable: bool = False
) -> Tensor:
    """reward(samples, context), (B,), float32 or wider.

    Args:
        samples: (B, ...).
        differentiable: `samples` have a graph and the rewards must continue it; otherwise they are asked for
            without one.

    Raises:
        ValueError: another shape than (B,), or no gradient where one is needed. FloatingPointError: NaN or
            infinity.
    """
    with torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):
        found = reward(samples if differentiable else samples.detach(), context)
    what = f"reward {_name_of(reward)}"
    values = as_values(what, found, samples)
    _check_shape(what, values, samples)
    broken = _broken(values, reward)
    if broken:
        state = "finite" if bool(samples.detach().isfinite().all()) else "not finite themselves"
        raise FloatingPointError(
            f"{what}: got NaN or infinity for samples {broken[:8]} of {len(samples)}, expected finite values; "
            f"the samples are {state}"
        )
    if differentiable:
        _check_graph(what, values, samples)
    return values if differentiable else values.detach()


class MeteredReward:
    """`reward(samples, context)`, checked, counted and timed: what a trainer hands to its objective.

    Values that are not finite are noted in `trouble` and replaced by 0 until the trainer, on all processes at once,
    refuses the step: raised here, on one process, it would leave the others waiting. With others, so are values that
    are not one for each sample or lack a gradient that is needed.

    Args:
        processes: that train together.

    Attributes:
        queries: samples scored so far. seconds: that this took.
    """

    def __init__(self, reward: RewardFunction, name: str = "reward", processes: int = 1) -> None:
        self.reward, self.name, self.processes = reward, name, processes
        self.queries, self.seconds = 0, 0.0
        self.trouble: str | None = None

    def __call__(self, x: Tensor, context: Any = None) -> Tensor:
        start = time.perf_counter()
        try:
            values = self._asked(x, context)
        except FloatingPointError as error:  # a reward may look for itself
            values = self._note(NOT_FINITE, str(error), x)
        except ValueError as error:
            if self.processes == 1:
                raise
            values = self._note("", str(error), x)
        self.seconds += time.perf_counter() - start
        self.queries += len(x)
        return values

    def _asked(self, x: Tensor, context: Any) -> Tensor:
        values = as_values(self.name, self.reward(x, context), x)
        _check_shape(self.name, values, x)
        if torch.is_grad_enabled():
            _check_graph(self.name, values, x)
        broken = _broken(values, self.reward)
        if not broken:
            return values
        self._note(NOT_FINITE, f"{values[broken[0]].item()} for sample {broken[0]} of {len(x)}", x)
        return torch.where(torch.isfinite(values.detach()), values, 0)

    def take_trouble(self) -> str | None:
        """What was noted since the last time this was asked."""
        found, self.trouble = self.trouble, None
        return found

    def _note(self, kind: str, trouble: str, x: Tensor) -> Tensor:
        """Remember the first, which is nearest to the cause; zeros with a graph."""
        named = trouble if trouble.startswith(f"{self.name}: ") else f"{self.name}: {trouble}"
        self.trouble = self.trouble or kind + named
        return x.flatten(1).sum(1) * 0


def refuse(trouble: str, where: str = "") -> NoReturn:
    """Raise what was noted: FloatingPointError for values that are not finite, else ValueError.

    The kind is told by the text, since that is all that one process hears of another.
    """
    kind = FloatingPointError if trouble.startswith(NOT_FINITE) else ValueError
    raise kind(f"{where}{trouble}")


def _name_of(reward: Any) -> str:
    """What an error calls the reward."""
    return str(getattr(reward, "name", None) or getattr(reward, "__name__", None) or type(reward).__name__)


def _check_shape(what: str, values: Tensor, samples: Tensor) -> None:
    """Raise ValueError unless there is one value per sample."""
    if values.shape != samples.shape[:1]:
        raise ValueError(
            f"{what}: got {tuple(values.shape)}, expected a tensor ({len(samples)},): one value per sample; "
            "reduce over every axis but the first"
        )


def _check_graph(what: str, values: Tensor, samples: Tensor) -> None:
    """Raise ValueError where samples have a graph that the values do not continue."""
    if samples.requires_grad and not values.requires_grad:
        raise ValueError(
            f"{what}: got values without a gradient at the samples, expected a differentiable reward; use "
            "DDPO or FlowGRPO, which need none, or drop no_grad, detach and numpy from the reward"
        )


def _broken(values: Tensor, reward: RewardFunction) -> list[int]:
    """The samples whose value is NaN or infinite; to look waits for the device, and some rewards have looked."""
    if isinstance(reward, Reward | MeteredReward):
        return []
    finite = values.detach().isfinite()
    return [] if bool(finite.all()) else (~finite).nonzero().flatten().tolist()
