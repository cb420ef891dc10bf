"""Levenberg-Marquardt beside Adam and L-BFGS on eight inverse problems: the objective after equal network calls.

    python benchmarks/levenberg.py [--seeds 2 --budget 2400 --only faces]

writes benchmarks/results/levenberg.json and .png. Minimised over x_T: |y - A x_0|^2 / (2 s^2) + |x_T|^2 / 2, x_0 by
8 calls of DPMSolverPP(2) (12 on mixtures), for a few samples, each with a measurement of its own of a truth that the
model did not see, from random noise. A forward call, a JVP and a VJP count as one call each, counted at the network:
all keep activations (`Direct()`), so that none replays. Adam is the best of five rates on the problem itself, by its
objective at the end; L-BFGS and Levenberg-Marquardt have their defaults.

speed-up: the calls that the better of Adam and L-BFGS was given over those after which Levenberg-Marquardt is where it
ended: as a mean over samples (`mean`), and sample by sample (`each`, the median); `priced` is that mean with every call
at what it takes in seconds beside a forward call, measured here (`prices`, of this machine, while it is shared).
"""

import argparse
import json
import math
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "examples")]

from bundled import denoiser, load  # noqa: E402
from data import digit_images, face_images  # noqa: E402
from inverse import digits_prior  # noqa: E402

from pullback.adjoint import Direct, linearised, sample  # noqa: E402
from pullback.guidance import (  # noqa: E402
    Blur,
    Clipping,
    Downsample,
    LeastSquares,
    Mask,
    Matrix,
    Measurement,
    NonLinear,
    NormPrior,
    adam,
    lbfgs,
    levenberg,
    optimise,
)
from pullback.solvers import VP, Addressed, Denoiser, DPMSolverPP, Mixture, Model, UniformLambda, UniformT  # noqa: E402

STD = 0.05
RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
OPTIMISERS: dict[str, Callable] = {f"Adam {lr}": adam(lr) for lr in RATES}
OPTIMISERS |= {"L-BFGS": lbfgs(), "Levenberg-Marquardt": levenberg()}


class Counted(nn.Module):
    """A network that counts its calls, dual ones too, and the cotangents that come back."""

    def __init__(self, network: Callable) -> None:
        super().__init__()
        self.network, self.count = network, 0

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.count += 1
        out = self.network(x, t)
        if out.requires_grad:
            out.register_hook(self.pulled)
        return out

    def pulled(self, grad: Tensor) -> None:
        self.count += 1


@dataclass
class Problem:
    """A model, how it samples, what is seen of the truths, and where x_T starts."""

    model: Model
    truth: Tensor
    physics: Any
    seed: int
    steps: int = 8
    network: Counted = field(init=False)

    def __post_init__(self) -> None:
        own = self.model
        self.network = Counted(lambda x, t: own(x, t))
        self.counted = Denoiser(self.network, own.process, own.prediction)
        self.seen = Measurement.of(self.physics, self.truth, Addressed(self.seed, stream=1), STD)
        self.start = Addressed(self.seed, stream=2).initial(self.truth)
        grid = UniformLambda(self.steps, start=0.99, end=0.01) if self.steps == 12 else UniformT(self.steps)
        self.plan = DPMSolverPP(2).plan(own.process, grid)


def mixture(seed: int) -> tuple[Model, Tensor]:
    """A mixture of 8 in 16 dimensions, the same for all seeds, and draws of it."""
    g = torch.Generator().manual_seed(5)
    law = Mixture.isotropic(
        torch.full((8,), 0.125), torch.randn(8, 16, generator=g), torch.linspace(0.3, 0.6, 8)
    )
    return law.denoiser(VP()), law.sample(4, torch.Generator().manual_seed(seed))


def matrix(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(6)) / columns**0.5


def mixture_linear(seed: int) -> Problem:
    return Problem(*mixture(seed), Matrix(matrix(8, 16)), seed, 12)


def mixture_nonlinear(seed: int) -> Problem:
    a = matrix(12, 16)
    return Problem(*mixture(seed), NonLinear(lambda x: torch.tanh(2 * x @ a.T)), seed, 12)


def fitted_digits(seed: int) -> Problem:
    """Ten full covariances fitted to digits of 8x8, digits held out, 16 pixels seen."""
    prior, held = digits_prior()
    truth = held.roll(-4 * seed, 0)[:4]
    seen = torch.eye(64)[torch.randperm(64, generator=torch.Generator().manual_seed(7))[:16]]
    return Problem(prior.denoiser(VP()), truth, Matrix(seen), seed, 12)


def network_digits(seed: int, physics: Any) -> Problem:
    images = digit_images()[0][-200:].roll(-4 * seed, 0)
    return Problem(denoiser("digits"), images[:4], physics, seed)


def network_faces(seed: int, physics: Any) -> Problem:
    """Faces that another seed of the model drew: the hundred real ones were all trained on."""
    model = denoiser("faces")
    noise = Addressed(seed, stream=3).initial(torch.zeros(2, 1, 25, 25))
    plan = DPMSolverPP(2).plan(model.process, UniformT(30))
    return Problem(model, sample(model, plan, noise, gradient=None), physics, seed)


def pixels(side: int, share: float) -> Tensor:
    return (torch.rand(1, side, side, generator=torch.Generator().manual_seed(8)) < share).float()


def middle(side: int) -> Tensor:
    keep = torch.ones(1, side, side)
    keep[:, side // 3 : 2 * side // 3, side // 3 : 2 * side // 3] = 0
    return keep


def gaussian(width: int, std: float) -> Tensor:
    row = torch.exp(-((torch.arange(width) - width // 2) ** 2) / (2 * std**2))
    return torch.outer(row, row) / row.sum() ** 2


PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "mixture, 8 numbers of 16": mixture_linear,
    "mixture, tanh of 12 numbers": mixture_nonlinear,
    "mixture of digits, 16 pixels of 64": fitted_digits,
    "digits, 16 pixels of 64": lambda seed: network_digits(seed, Mask(pixels(8, 0.25))),
    "digits, blurred": lambda seed: network_digits(seed, Blur(gaussian(5, 1.2))),
    "faces, 5x5 pixels": lambda seed: network_faces(seed, Downsample(5)),
    "faces, the middle hidden": lambda seed: network_faces(seed, Mask(middle(25))),
    "faces, clipped": lambda seed: network_faces(seed, Clipping(gain=2.5)),
}


def curve(problem: Problem, optimiser: Callable, budget: int) -> list[tuple[int, list[float]]]:
    """(calls so far, the least objective of each sample) at every evaluation within the budget."""
    at = list[int]()
    problem.network.count = 0

    def residual(x: Tensor) -> Tensor:
        if problem.network.count > budget:
            raise KeyboardInterrupt  # what `optimise` ends on, with the best so far
        at.append(problem.network.count)
        return problem.seen.residual(x)

    found = optimise(
        problem.counted, problem.plan, LeastSquares(residual, STD), problem.start, prior=NormPrior(),
        optimiser=optimiser, steps=10_000, gradient=Direct(), progress=False,
    )  # fmt: skip
    least = found.losses.cummin(0).values
    return list(zip(at, least.tolist(), strict=True))


def reached(line: list[tuple[int, list[float]]], level: float, of: Callable[[list[float]], float]) -> float:
    """After how many calls `of` the objectives is at most `level`; infinity where it never is."""
    return next((calls for calls, values in line if of(values) <= level * (1 + 1e-9)), math.inf)


def prices(problem: Problem) -> dict[str, float]:
    """Seconds of processor time of a JVP and of a VJP of the run over those of a forward run."""
    linear = linearised(problem.counted, problem.plan, problem.start, gradient=Direct())
    v = problem.start

    def seconds(fn: Callable[[], Any]) -> float:
        fn()
        taken = []
        for _ in range(5):
            began = time.process_time()
            fn()
            taken.append(time.process_time() - began)
        return statistics.median(taken)

    forward = seconds(lambda: sample(problem.counted, problem.plan, v, gradient=None))
    return {"jvp": seconds(lambda: linear.jvp(v)) / forward, "vjp": seconds(lambda: linear.vjp(v)) / forward}


def compared(lines: dict[str, list[tuple[int, list[float]]]], budget: int) -> dict[str, Any]:
    """Where each ends, and how much earlier Levenberg-Marquardt is where the better of the others ends."""
    ends = {name: statistics.mean(line[-1][1]) for name, line in lines.items()}
    rate = min((name for name in lines if name.startswith("Adam")), key=ends.__getitem__)
    other = min((rate, "L-BFGS"), key=ends.__getitem__)
    ours, theirs = lines["Levenberg-Marquardt"], lines[other]
    used = reached(theirs, ends[other], statistics.mean)  # one that has converged is not charged for the rest
    mean = used / reached(ours, ends[other], statistics.mean)
    each = []
    for b, last in enumerate(theirs[-1][1]):
        pick = lambda values, b=b: values[b]  # noqa: E731
        each.append(reached(theirs, last, pick) / reached(ours, last, pick))
    return {
        "adam": rate, "better": other, "calls": used, "ends": {k: ends[k] for k in (rate, "L-BFGS", "Levenberg-Marquardt")},
        "mean": mean, "each": each,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument(
        "--first", type=int, default=0, help="the first seed; what was chosen was chosen on 100 and up"
    )
    parser.add_argument("--budget", type=int, default=2400)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results" / "levenberg.json")
    a = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, Any] = {}
    for name, make in PROBLEMS.items():
        if a.only not in name:
            continue
        runs = []
        for seed in range(a.first, a.first + a.seeds):
            torch.set_default_dtype(torch.float64 if name.startswith("mixture") else torch.float32)
            problem = make(seed)
            lines = {k: curve(problem, made, a.budget) for k, made in OPTIMISERS.items()}
            runs.append(
                compared(lines, a.budget)
                | {"curves": {k: lines[k] for k in lines}, "prices": prices(problem)}
            )
            print(f"{name:36s} {seed} {runs[-1]['better']:9s} " + " ".join(f"{k} {v:.5g}," for k, v in runs[-1]["ends"].items())
                  + f" {runs[-1]['mean']:.2f} x, each {[round(r, 1) for r in runs[-1]['each']]}", flush=True)  # fmt: skip
        rows[name] = runs
        a.out.write_text(
            json.dumps({"python": platform.python_version(), "torch": torch.__version__, "rows": rows}) + "\n"
        )


if __name__ == "__main__":
    main()
