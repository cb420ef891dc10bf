"""Advantages: rewards made relative to a batch, to a group of repeats, or to a prompt's own past."""

import enum
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...solvers.checked import Checked
from ..rewards.values import at_least_float32


class Scale(enum.Enum):
    """What a centred reward is divided by. Anything but NONE rescales the weight of a KL penalty beside it by
    the same factor.
    """

    GROUP = "the group's standard deviation"
    BATCH = "the whole batch's"
    NONE = "nothing"


def group_advantages(reward: Tensor, groups: Tensor, scale: Scale = Scale.GROUP, eps: float = 1e-4) -> Tensor:
    """(r - mean_g)/(std_g + eps), (B,), mean and (population) std over the samples of the same group. They
    sum to 0 per group. In float32 or wider, from statistics in float64.

    Source: Flow-GRPO, arXiv 2505.05470, eq. 4. Over several processes pass the gathered rewards and groups.

    Args:
        reward: (B,). groups: (B,) integers, the prompt of each sample.
    """
    if reward.ndim != 1 or groups.shape != reward.shape:
        raise ValueError(
            f"advantages: got rewards {tuple(reward.shape)} and groups {tuple(groups.shape)}, expected (B,) "
            "for both"
        )
    dtype = at_least_float32(reward).dtype
    # the mean of equal rewards misses them by a rounding: in float32 it would be as large as the eps it is
    # divided by, and make advantages of 1 out of nothing
    reward = reward.double()
    index = torch.unique(groups, return_inverse=True)[1]
    count = torch.bincount(index).to(reward)
    mean = torch.zeros_like(count).index_add(0, index, reward) / count
    centred = reward - mean[index]
    if scale is Scale.NONE:
        return centred.to(dtype)
    if scale is Scale.BATCH:
        return (centred / ((reward - reward.mean()).square().mean().sqrt() + eps)).to(dtype)
    std = (torch.zeros_like(count).index_add(0, index, centred.square()) / count).sqrt()
    return (centred / (std[index] + eps)).to(dtype)


def batch_advantages(reward: Tensor, scale: Scale = Scale.BATCH, eps: float = 1e-8) -> Tensor:
    """(r - mean)/(std + eps) over the whole batch, (B,). Source: Zhang et al. 2024, arXiv 2401.12244; DDPO
    without prompts.
    """
    return group_advantages(reward, torch.zeros_like(reward, dtype=torch.long), scale, eps)


class Advantages(Checked, ABC):
    """Turns the gathered rewards of an iteration into advantages; may remember."""

    @abstractmethod
    def __call__(self, reward: Tensor, groups: Tensor) -> Tensor:
        """(B,) from (B,) rewards and groups of all processes; called once per rollout, in the same way on
        every process.
        """

    def state(self) -> dict[str, Any]:
        """What must survive a restart."""
        return {}

    def load(self, state: dict[str, Any]) -> None:  # noqa: B027  (not every one remembers)
        """Take back what `state` gave."""


@dataclass(frozen=True)
class OverBatch(Advantages):
    """`batch_advantages`."""

    scale: Scale = Scale.BATCH
    eps: float = 1e-8

    def __call__(self, reward: Tensor, groups: Tensor) -> Tensor:
        return batch_advantages(reward, self.scale, self.eps)


@dataclass(frozen=True)
class OverGroup(Advantages):
    """`group_advantages`. A group without spread has advantage 0 and teaches nothing."""

    scale: Scale = Scale.GROUP
    eps: float = 1e-4

    def __call__(self, reward: Tensor, groups: Tensor) -> Tensor:
        return group_advantages(reward, groups, self.scale, self.eps)


class PerPrompt(Advantages):
    """(r - mean)/(std + eps) over the last `buffer` rewards of the prompt, this iteration's included; over
    the batch while the prompt has fewer than `minimum`.

    Source: DDPO's released code, per-prompt statistic tracking (arXiv 2305.13301, appendix). Memory: `buffer`
    numbers a prompt.
    """

    def __init__(self, buffer: int = 32, minimum: int = 16, eps: float = 1e-8) -> None:
        if not 2 <= minimum <= buffer:
            raise ValueError(
                f"PerPrompt: got buffer={buffer}, minimum={minimum}, expected 2 <= minimum <= buffer"
            )
        self.buffer, self.minimum, self.eps = buffer, minimum, eps
        self.past: dict[int, list[float]] = {}

    def __call__(self, reward: Tensor, groups: Tensor) -> Tensor:
        out = batch_advantages(reward, eps=self.eps)
        reward = reward.double()
        for group in torch.unique(groups).tolist():
            own = groups == group
            seen = [*self.past.get(group, []), *reward[own].tolist()][-self.buffer :]
            self.past[group] = seen
            if len(seen) >= self.minimum:
                kept = reward.new_tensor(seen)
                of_prompt = (reward[own] - kept.mean()) / (kept.std(unbiased=False) + self.eps)
                out[own] = of_prompt.to(out.dtype)
        return out

    def state(self) -> dict[str, Any]:
        return {"past": {group: list(seen) for group, seen in self.past.items()}}

    def load(self, state: dict[str, Any]) -> None:
        self.past = {int(group): list(seen) for group, seen in state["past"].items()}
