"""The Gaussian law of one step of a plan, read off its program: no network call is made for it."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...solvers import Noise
from ...solvers.loop import execute
from ...solvers.program import BoundApply, BoundCombine, Evaluator, Program


@dataclass(frozen=True, eq=False)
class StepLaw:
    """The law of x_s given x_t for a step that has begun.

    Once its predictions are known a step is linear in its registers and its noise: run with the predictions
    and zero noise it gives the mean, run from zero with one noise slot at one that slot's share of the
    standard deviation.

    Attributes:
        program, registers: the step, and the registers it started from.
        plain, guided: its predictions so far by call, as the network gave them and as the guide left them.
    """

    program: Program
    registers: dict[str, Tensor]
    plain: dict[int, Tensor] = field(default_factory=dict)
    guided: dict[int, Tensor] = field(default_factory=dict)

    @property
    def zeros(self) -> Tensor:
        """(B, 1, ...): coefficients are the same for all entries of a sample, so one entry will do."""
        like = self.registers["x"]
        return torch.zeros(len(like), *(1,) * (like.ndim - 1), dtype=like.dtype, device=like.device)

    def response(self, index: int, size: Tensor) -> Tensor:
        """How far x_s moves when the prediction of call `index` moves by `size`, shaped to broadcast, and the
        others are held: (B, 1, ...).
        """
        zeros = self.zeros
        moved, start = zeros + size, dict.fromkeys(self.registers, zeros)
        return self._run(start, lambda call, _: moved if call.index == index else zeros)

    def transition(self, guided: bool) -> tuple[Tensor, Tensor]:
        """(mean (B, ...), std (B, 1, ...)) of x_s given the step's predictions; std is 0 without noise.

        Raises ValueError where a prediction follows noise within the step, so that it is not Gaussian.
        """
        slots, known = self._slots(), self.guided if guided else self.plain
        mean = self._run(dict(self.registers), lambda call, _: known[call.index])
        zeros = variance = self.zeros
        for slot in slots:
            share = self._run(dict.fromkeys(self.registers, zeros), lambda call, _: zeros, slot)
            variance = variance + share.square()
        return mean, variance.sqrt()

    def _run(self, registers: dict[str, Tensor], evaluate: Evaluator, slot: int | None = None) -> Tensor:
        """x_s from other registers and predictions, with no noise but a one in `slot`."""
        return execute(self.program, registers, evaluate, _Unit(slot))["x"]

    def _slots(self) -> list[int]:
        """The noise slots of the step."""
        slots: list[int] = []
        for item in self.program.ops:
            if isinstance(item, BoundCombine):
                slots += [slot for _, slot in item.noise]
            elif isinstance(item, BoundApply):
                raise ValueError(
                    f"transition: got step {item.step} with an Apply, expected linear instructions only"
                )
            elif slots:
                raise ValueError(
                    "transition: got a step that evaluates the network after drawing noise, expected "
                    "predictions first; take DDPM, DDIM(eta) or another method with one evaluation a step"
                )
        return slots


class _Unit(Noise):
    """Noise that is one in one slot (None: in no slot) and zero in all others."""

    def __init__(self, one: int | None) -> None:
        self.one = one

    def check(self, slots: int, like: Tensor) -> None: ...

    def __call__(self, slot: int, like: Tensor) -> Tensor:
        return torch.full_like(like, float(slot == self.one))


def log_normal(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """log N(x; mean, std^2 I), (B,), std (B, 1, ...) being one number for each sample."""
    if not bool((std > 0).all()):
        raise ValueError(
            "log_transition: got a step without noise, expected a stochastic one; take DDPM() or DDIM(eta > "
            "0), and end the grid at a time with sigma > 0"
        )
    scaled = ((x - mean) / std).flatten(1)
    return -0.5 * scaled.square().sum(1) - scaled.shape[1] * (
        std.flatten(1)[:, 0].log() + 0.5 * math.log(2 * math.pi)
    )
