"""A program as a user writes it. pyright (strict) and mypy (strict) find nothing in it, against the installed package;
and it runs. The names that it takes are the first ones of a newcomer.
"""

import sys
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from pullback import (
    DDIM,
    NOISE,
    VP,
    Addressed,
    Checkpoint,
    Denoiser,
    DPMSolverPP,
    Over,
    UniformLambda,
    optimise,
    sample,
    steer,
)
from pullback.adjoint import Gradient, Input, Registers, Rollout
from pullback.guidance import DPS, DRaFT, Mask, Measurement, Prompt, Prompts, RewardTrainer, TrainConfig
from pullback.solvers import Plan


class Loss(Protocol):
    """What this program calls a loss: one number for each sample."""

    def __call__(self, samples: Tensor, /) -> Tensor: ...


class Network(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 2))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        found: Tensor = self.inner(torch.cat([x, t[:, None].to(x)], 1))
        return found


@dataclass(frozen=True)
class LastCall(Gradient):
    """A strategy of one's own: through the network at the last call only."""

    def check(self, plan: Plan, wanted: Collection[Input] = ()) -> None:
        if plan.nfe < 2:
            raise ValueError(f"LastCall: got {plan.nfe} call, expected two; take more steps")

    def run(self, rollout: Rollout, registers: Registers) -> Registers:
        last = rollout.program.plan.nfe - 1
        return rollout.execute(
            registers,
            lambda call, x: (
                rollout.evaluate(call, x) if call.index == last else rollout.evaluate(call, x).detach()
            ),
        )

    def cost(self, plan: Plan) -> tuple[int, int]:
        return plan.nfe, 1


def near(target: Tensor) -> Loss:
    def loss(samples: Tensor, /) -> Tensor:
        return (samples - target).square().sum(1)

    return loss


def slope(denoiser: Denoiser, plan: Plan, x: Tensor, loss: Loss, gradient: Gradient) -> Tensor:
    x = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(sample(denoiser, plan, x, gradient=gradient)).sum(), [x])
    return found


def reward(samples: Tensor, context: Sequence[str]) -> Tensor:
    return -samples.square().sum(1)


def main(folder: Path) -> Tensor:
    denoiser = Denoiser(Network(), VP(), NOISE)
    plan = DPMSolverPP(2).plan(denoiser.process, UniformLambda(4, start=1.0, end=0.05))
    x, loss = Addressed(0).initial(torch.zeros(2, 2)), near(torch.ones(2))
    slopes = [slope(denoiser, plan, x, loss, each) for each in (Checkpoint(), LastCall())]
    result = optimise(denoiser, plan, loss, x, over=Over(x=True), steps=2, progress=False)
    best: Tensor = result.sample
    measured = Measurement(Mask(torch.tensor([True, False])), torch.ones(2, 2), 0.1)
    steered = steer(denoiser, plan, x, DPS(measured))
    noisy = DDIM(eta=1.0).plan(denoiser.process, UniformLambda(3, start=1.0, end=0.05))
    prompts = Prompts([Prompt(context="origin")], shape=(2,), repeats=2)
    config = TrainConfig(str(folder), iterations=1, samples=2, tensorboard=False)
    end = RewardTrainer(denoiser, noisy, DRaFT(), reward, prompts, config).train()
    print(plan.nfe, result.nfe, steered.nfe, end.value)
    return torch.cat([*slopes, best, steered.sample])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        sys.exit(0 if bool(main(Path(place)).isfinite().all()) else 1)
