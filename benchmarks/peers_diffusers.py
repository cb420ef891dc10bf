"""The part of benchmarks/peers.py about diffusers: gradients through a scheduler's loop.

    python benchmarks/peers_diffusers.py NAME STEPS     prints the peak of one way, for a process of its own

The loop is DPMSolverMultistepScheduler's on a UNet of about 1 M parameters, float32, 32 x 32: by hand with autograd, by
hand with torch.utils.checkpoint around each network call, and as our plan of the same scheduler. Value and gradient at
x and at all weights. The scheduler's own time a step stands in overhead.json, a whole pipeline's in pipelines.json.
"""

import importlib
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import torch
from measuring import LARGE, beside, by_turns, in_its_own_process, peak_bytes
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pullback.adjoint import Checkpoint, Direct, Gradient, sample
from pullback.solvers import plan_from_scheduler

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))

from pullback.zoo import UNet  # noqa: E402


class Labelled(UNet):
    """Of the scheduler's labels, 0 to 999."""

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        return super().forward(x, t.to(x) / 1000, cond)


def network_of() -> Labelled:
    return Labelled(32, 40, (1, 2, 3))


STRATEGIES: dict[str, Gradient] = {
    "pullback, Checkpoint": Checkpoint(),
    "pullback, Direct": Direct(),
    "pullback, Checkpoint(recursive)": Checkpoint(recursive=True),
}
LOOPS = {"diffusers' loop, autograd": False, "diffusers' loop, torch.utils.checkpoint": True}
STEPS = (10, 50)


def way(name: str, steps: int) -> Callable[[], list[Tensor]]:
    """One value and gradient at x and all weights."""
    torch.manual_seed(0)
    diffusers: Any = importlib.import_module("diffusers")
    network, x = network_of(), torch.randn(1, 1, 32, 32)
    weights = list(network.parameters())
    scheduler = diffusers.DPMSolverMultistepScheduler()
    played = plan_from_scheduler(scheduler, steps)
    model = played.denoiser(network)

    def ours() -> list[Tensor]:
        start = x.clone().requires_grad_()
        out = sample(model, played.plan, start, gradient=STRATEGIES[name])
        return [out.detach(), *torch.autograd.grad(out.square().sum(), [start, *weights])]

    def theirs() -> list[Tensor]:
        state = start = x.clone().requires_grad_()
        scheduler.set_timesteps(steps)
        for t in scheduler.timesteps:
            label = t.expand(1)
            if LOOPS[name]:
                found = checkpoint(network, state, label, use_reentrant=False)
            else:
                found = network(state, label)
            state = scheduler.step(found, t, state).prev_sample
        return [state.detach(), *torch.autograd.grad(state.square().sum(), [start, *weights])]

    return theirs if name in LOOPS else ours


def off(found: list[Tensor], expected: list[Tensor]) -> float:
    got, want = (torch.cat([each.flatten() for each in grads[1:]]) for grads in (found, expected))
    return float((got - want).norm() / want.norm())


def measured(quick: bool) -> dict[str, Any]:
    """Peaks in processes of their own; times by turns at the first number of steps; how far the gradients differ."""
    names = [*LOOPS, *STRATEGIES]
    steps = STEPS[:1] if quick else STEPS
    made = {name: way(name, STEPS[0]) for name in names}
    rows = beside(by_turns(made, 2 if quick else 9), "pullback, Checkpoint")
    want = made["diffusers' loop, autograd"]()
    for name, row in rows.items():
        row["off"] = off(made[name](), want)
        row["peak_MiB"] = {str(n): in_its_own_process(__file__, name, n)["peak_MiB"] for n in steps}
        print(".", end="", flush=True)
    return {"parameters": sum(w.numel() for w in network_of().parameters()), "steps": STEPS[0], "rows": rows}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for _ in range(10):  # until the allocators have settled
        way(sys.argv[1], 2)()
    last = way(sys.argv[1], int(sys.argv[2]))
    print(json.dumps({"peak_MiB": peak_bytes(last, LARGE) / 2**20}))
