"""Live tensors and resident memory over long loops: both must be flat after the warm-up. One fresh process per loop.

    python benchmarks/leaks.py [name of a loop]      writes benchmarks/results/leaks.json

    trajectory    200 runs with losses at four nodes, by Checkpoint
    optimise      200 steps of one optimisation of the noise
    steer         200 runs under DPS
    DRaFT         600 updates of an adapter with a KL term

A state has 0.25 MiB (DRaFT: 16 KiB), so that one kept a turn shows. `growth` is the last quarter's mean less that of
the second. `optimise` keeps one small tensor a step by right: the losses that it returns.
"""

import ctypes
import gc
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pullback.adjoint import Checkpoint, trajectory
from pullback.guidance import (
    DPS,
    DRaFT,
    Mask,
    Measurement,
    Prompt,
    Prompts,
    RewardTrainer,
    TrainConfig,
    lora,
    optimise,
    steer,
)
from pullback.solvers import DDIM, VP, Addressed, Denoiser, DPMSolverPP, Plan, UniformLambda, V

HERE = pathlib.Path(__file__).parent
Look = Callable[[], None]


class Log:
    """What is alive, every so many looks."""

    def __init__(self, every: int) -> None:
        self.every, self.looks = every, 0
        self.turns: list[int] = []
        self.tensors: list[int] = []
        self.resident: list[float] = []

    def __call__(self) -> None:
        self.looks += 1
        if self.looks % self.every:
            return
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what is free goes back: what is left is in use
        status = pathlib.Path("/proc/self/status").read_text()
        self.turns.append(self.looks)
        self.tensors.append(sum(issubclass(type(thing), Tensor) for thing in gc.get_objects()))
        self.resident.append(int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) / 1024)  # type: ignore[union-attr]

    def facts(self) -> dict[str, Any]:
        return {
            "turns": self.turns,
            "live_tensors": self.tensors,
            "resident_MiB": [round(value, 2) for value in self.resident],
            "growth": {"tensors": growth(self.tensors), "MiB": round(growth(self.resident), 2)},
        }


def growth(values: list[Any]) -> float:
    quarter = len(values) // 4
    return statistics.fmean(values[-quarter:]) - statistics.fmean(values[quarter : 2 * quarter])


class Small(nn.Module):
    """Two linear layers over the channels of each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        h = self.leave(torch.tanh(self.enter(x.movedim(1, -1)))).movedim(-1, 1)
        return h if cond is None else h + cond.reshape(-1, 1, 1, 1)


def problem(stochastic: bool = False, side: int = 64) -> tuple[Denoiser, Plan, Tensor]:
    torch.manual_seed(0)
    method = DDIM(1.0) if stochastic else DPMSolverPP(2)
    plan = method.plan(VP(), UniformLambda(5, start=0.98, end=0.03))
    return Denoiser(Small(), VP(), V), plan, torch.randn(4, 4, side, side)


def trajectories(look: Look) -> None:
    model, plan, x = problem()
    x.requires_grad_()
    for _ in range(200):
        states = trajectory(model, plan, x, [1, 2, 3, 5], gradient=Checkpoint())
        torch.autograd.grad(torch.stack([state.square().mean() for state in states]).sum(), x)
        del states
        look()


def optimisation(look: Look) -> None:
    model, plan, x = problem()

    def loss(sample: Tensor) -> Tensor:
        look()
        return sample.square().flatten(1).mean(1)

    optimise(model, plan, loss, x, steps=200, progress=False)


def steering(look: Look) -> None:
    model, plan, x = problem(stochastic=True)
    mask = (torch.arange(64) % 2).float().expand(4, 64, 64)
    seen = Measurement(Mask(mask), torch.zeros(1, 4, 64, 64), 0.1)
    for k in range(200):
        steer(model, plan, x, DPS(seen), noise=Addressed(k))
        look()


def tuning(look: Look) -> None:
    model, plan, _ = problem(stochastic=True, side=16)

    def reward(x: Tensor, context: Any) -> Tensor:
        look()
        return -x.square().flatten(1).mean(1)

    prompts = Prompts([Prompt(torch.tensor(0.1 * k), {}) for k in range(4)], (4, 16, 16))
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            folder, iterations=600, lr=1e-4, samples=4, evaluate_every=None, checkpoint_every=10_000,
            tensorboard=False, progress=False,
        )  # fmt: skip
        RewardTrainer(lora(model, 2), plan, DRaFT(kl=0.1), reward, prompts, config).train()


LOOPS: dict[str, tuple[Callable[[Look], None], int]] = {
    "trajectory": (trajectories, 10),
    "optimise": (optimisation, 10),
    "steer": (steering, 10),
    "DRaFT": (tuning, 30),
}


def main(names: list[str]) -> None:
    path = HERE / "results" / "leaks.json"
    facts = json.loads(path.read_text()) if path.exists() else {}
    for name in names:
        out = subprocess.run([sys.executable, __file__, "--loop", name], capture_output=True, text=True)
        if out.returncode:
            raise SystemExit(out.stderr)
        facts[name] = json.loads(out.stdout.splitlines()[-1])
        path.write_text(json.dumps(facts) + "\n")
        print(name, facts[name], flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--loop"]:
        torch.set_num_threads(1)
        loop, every = LOOPS[sys.argv[2]]
        log = Log(every)
        loop(log)
        print(json.dumps(log.facts()))
    else:
        main(sys.argv[1:] or list(LOOPS))
