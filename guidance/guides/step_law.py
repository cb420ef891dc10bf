"""The Gaussian law of one step of a plan, read off its program."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...solvers import Noise
from ...solvers.loop import execute
from ...solvers.program import BoundApply, BoundCombine, Program


class _Zero(Noise):
    """Noise that is zero everywhere but in one slot, where it is one."""

    def __init__(self, one: int | None = None) -> None:
        self.one = one

    def check(self, slots: int, like: Tensor) -> None: ...

    def __call__(self, slot: int, like: Tensor) -> Tensor:
        return torch.full_like(like, float(slot == self.one))


@dataclass(eq=False)
class Opened:
    """A step that has begun: its program, its registers at the start, and its predictions so far."""

    program: Program
    registers: dict[str, Tensor]
    plain: dict[int, Tensor] = field(default_factory=dict)
    guided: dict[int, Tensor] = field(default_factory=dict)

    @property
    def flat(self) -> Tensor:
        """Zeros (B, 1, ...)."""
        like = self.registers["x"]
        return torch.zeros(len(like), *(1,) * (like.ndim - 1), dtype=like.dtype, device=like.device)

    def response(self, index: int, size: Tensor) -> Tensor:
        """How far x moves over the step when the prediction of call `index` moves by `size` (B, 1, ...), the
        others held.
        """
        zeros = dict.fromkeys(self.registers, self.flat)
        return execute(
            self.program, zeros, lambda call, _: size if call.index == index else self.flat, _Zero()
        )["x"]

    def transition(self, guided: bool) -> tuple[Tensor, Tensor]:
        """(mean, std) of x after the step given its predictions; std is (B, 1, ...), 0 for a step without noise.

        Raises ValueError where a prediction follows noise within the step, so that it is not Gaussian, or is
        not there yet.
        """
        seen, slots = False, []
        for item in self.program.ops:
            if isinstance(item, BoundCombine):
                slots += [slot for _, slot in item.noise]
            elif isinstance(item, BoundApply):
                raise ValueError(
                    f"transition: got step {item.step} with an Apply, expected linear instructions only"
                )
            elif slots:
                seen = True
        if seen:
            raise ValueError(
                "transition: got a step that evaluates the network after drawing noise, expected predictions "
                "first; take DDPM, DDIM(eta) or another method with one evaluation a step"
            )
        found = self.guided if guided else self.plain
        mean = execute(self.program, dict(self.registers), lambda call, _: found[call.index], _Zero())["x"]
        flat = variance = self.flat
        for slot in slots:
            zeros = dict.fromkeys(self.registers, flat)
            variance = (
                variance + execute(self.program, zeros, lambda call, _: flat, _Zero(slot))["x"].square()
            )
        return mean, variance.sqrt()


def log_transition(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """log N(x; mean, std^2 I), (B,)."""
    if not bool((std > 0).all()):
        raise ValueError(
            "log_transition: got a step without noise, expected a stochastic one; take DDPM() or DDIM(eta > "
            "0), and end the grid at a time with sigma > 0"
        )
    scaled = ((x - mean) / std).flatten(1)
    return -0.5 * scaled.square().sum(1) - scaled.shape[1] * (
        std.flatten(1)[:, 0].log() + 0.5 * math.log(2 * math.pi)
    )
