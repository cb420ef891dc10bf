"""The part of benchmarks/peers.py about deepinv: its DPS beside ours: one denoiser, one measurement, as many calls.

Inpainting of 8 x 8 digits, 16 pixels seen, noise 0.1. Both on the linear VP, t = 1 to 0 in equal ancestral steps, one
call and one VJP each. Two denoisers: the exact one of a mixture fitted to digits, whose posterior is known, and the
bundled digits network, whose hidden pixels are compared with the truth. Each side takes the best of SCALES for its
weight, chosen on a measurement of its own (seed 999).
"""

import importlib
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import torch
from inverse import PROCESS, STD, Problem, digit_problem, digits_prior, sliced_w2
from measuring import beside, by_turns
from torch import Tensor, nn

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "examples")]

from torchvision_stand_in import torchvision_stand_in  # noqa: E402

from pullback import zoo  # noqa: E402
from pullback.guidance import DPS, Mask, Measurement, Residual, steer  # noqa: E402
from pullback.solvers import DDIM, Addressed, Model, UniformT  # noqa: E402
from pullback.solvers.model import data_prediction  # noqa: E402

STEPS, SCALES, SHAPE = (25, 50, 100), (0.3, 1.0, 3.0, 10.0, 30.0, 100.0), (1, 8, 8)
Sampler = Callable[[Tensor, float], Tensor]  # of the start and a weight


class AtSigma(nn.Module):
    """A model as deepinv calls a denoiser: of x_t / alpha, at sigma / alpha. Counts its calls."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model, self.calls = model, 0

    def forward(self, x: Tensor, sigma: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.calls += 1
        t = PROCESS.time(-torch.as_tensor(sigma, dtype=torch.float64).flatten()[0].log())
        return data_prediction(self.model, PROCESS.alpha(t).to(x) * x, t)


class Seen:
    """One measurement: the mask (1, 8, 8), y (1, 1, 8, 8), the truth where the network is judged, the posterior."""

    def __init__(self, prior: Any, held: Tensor, seed: int) -> None:
        self.problem: Problem = digit_problem(prior, held, "inpainting", seed, 50)
        matrix = self.problem.matrix
        self.mask, self.y = matrix.sum(0).reshape(SHAPE), (self.problem.y @ matrix).reshape(1, *SHAPE)
        g = torch.Generator().manual_seed(seed)  # as digit_problem draws it
        torch.randperm(64, generator=g)
        self.truth = held[torch.randint(len(held), (1,), generator=g)].reshape(SHAPE)


def ours(model: Model, seen: Seen, steps: int, seed: int) -> Sampler:
    plan = DDIM(1.0).plan(PROCESS, UniformT(steps, start=1.0, end=0.0))

    def run(x: Tensor, scale: float) -> Tensor:
        guide = DPS(Measurement(Mask(seen.mask.to(x)), seen.y.to(x), STD), Residual(scale))
        return steer(model, plan, x, guide, noise=Addressed(seed)).sample

    return run


def theirs(model: Model, seen: Seen, steps: int, seed: int, dtype: torch.dtype = torch.float64) -> Sampler:
    with torchvision_stand_in():
        dinv: Any = importlib.import_module("deepinv")
        sampling: Any = importlib.import_module("deepinv.sampling")
    physics = dinv.physics.Inpainting(
        SHAPE, mask=seen.mask.float(), noise_model=dinv.physics.GaussianNoise(sigma=STD)
    )
    times, denoiser = torch.linspace(1, 0, steps + 1, dtype=dtype), AtSigma(model)

    def run(x: Tensor, scale: float) -> Tensor:
        solver = sampling.DDPMSolver(timesteps=times, rng=torch.Generator().manual_seed(seed))
        sampler = sampling.PosteriorDiffusion(
            data_fidelity=sampling.DPSDataFidelity(denoiser=denoiser, weight=scale),
            denoiser=denoiser,
            sde=sampling.VariancePreservingDiffusion(alpha=1.0, dtype=dtype),
            solver=solver,
            dtype=dtype,
            minus_one_one=False,
        )
        denoiser.calls = 0
        found = sampler(seen.y.float(), physics, x_init=x.to(dtype), seed=seed, denoise_output=False)
        assert denoiser.calls == steps, denoiser.calls  # one call a step, as ours
        return found

    return run


def error(kind: str, seen: Seen, found: Tensor) -> float:
    """Distance to the exact posterior over that of its own draws, or RMS of the hidden pixels from the truth."""
    if not bool(found.isfinite().all()):
        return float("inf")
    if kind == "network":
        hidden = 1 - seen.mask
        return float((((found - seen.truth) * hidden).square().sum() / hidden.sum() / len(found)).sqrt())
    g, flat = torch.Generator().manual_seed(5), found.flatten(1).double()
    first, second = (seen.problem.posterior.sample(len(flat), g).double() for _ in range(2))
    directions = nn.functional.normalize(torch.randn(64, 100, generator=g, dtype=torch.float64), dim=0)
    return sliced_w2(flat, first, directions) / sliced_w2(second, first, directions)


def compared(
    kind: str, model: Model, measure: Callable[[int], Seen], n: int, steps: int, seeds: int
) -> dict[str, Any]:
    """Each side's mean error over measurements 0 to seeds - 1 at its best weight."""
    rows = {}
    for side, make in (("pullback", ours), ("deepinv", theirs)):

        def judged(seed: int, scale: float, count: int, make: Any = make) -> float:
            seen, g = measure(seed), torch.Generator().manual_seed(seed)
            x = torch.randn(count, *SHAPE, generator=g).to(
                torch.float32 if kind == "network" else torch.float64
            )
            try:
                return error(kind, seen, make(model, seen, steps, seed)(x, scale))
            except FloatingPointError:  # ours refuses what has diverged
                return float("inf")

        tried = {scale: judged(999, scale, n) for scale in SCALES}
        scale = min(tried, key=lambda each: tried[each])
        errors = [judged(seed, scale, n) for seed in range(seeds)]
        rows[side] = {"scale": scale, "errors": errors, "mean": sum(errors) / len(errors)}
        print(".", end="", flush=True)
    return rows


def measured(quick: bool) -> dict[str, Any]:
    torch.set_default_dtype(torch.float64)  # for the mixture; the network's states are float32
    prior, held = digits_prior()
    network, exact = zoo.denoiser("digits"), prior.denoiser(PROCESS)
    seen: dict[int, Seen] = {}

    def measure(seed: int) -> Seen:
        return seen.setdefault(seed, Seen(prior, held, seed))

    n, seeds = (8, 1) if quick else (100, 3)
    found: dict[str, Any] = {"samples": n, "measurements": seeds, "errors": {}}
    for kind, model, count in (("mixture", exact, n), ("network", network, n // 4)):
        for steps in STEPS[:1] if quick else STEPS:
            rows = compared(kind, model, measure, count, steps, seeds)
            found["errors"].setdefault(kind, {})[str(steps)] = rows
    x, steps = torch.randn(4, *SHAPE, dtype=torch.float32), STEPS[0]
    makers = {
        "pullback, DPS": ours(network, measure(0), steps, 0),
        "deepinv, DPS, float64": theirs(network, measure(0), steps, 0),
        "deepinv, DPS, float32": theirs(network, measure(0), steps, 0, torch.float32),
    }
    runs: dict[str, Callable[[], object]] = {
        name: (lambda make=make: make(x, 0.3)) for name, make in makers.items()
    }
    rows = beside(by_turns(runs, 2 if quick else 11), "pullback, DPS")
    return found | {"time_steps": steps, "batch": len(x), "times": rows}
