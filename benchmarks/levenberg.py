"""Levenberg-Marquardt beside Adam and L-BFGS on eight inverse problems: the objective after equal network calls.

    python benchmarks/levenberg.py [--seeds 2 --budget 2400 --only faces]

writes benchmarks/results/levenberg.json and .png. Minimised over x_T: |y - A x_0|^2 / (2 s^2) + |x_T|^2 / 2, x_0 by
8 calls of DPMSolverPP(2) (12 on mixtures), for a few samples, each with a measurement of its own of a truth that the
model did not see, from random noise. A forward call, a JVP and a VJP count as one call each, counted at the network:
all keep activations (`Direct()`), so that none replays. Adam is the best of five rates on the problem itself, by its
objective at the end; L-BFGS and Levenberg-Marquardt have their defaults.

beside Adam, beside L-BFGS: the calls after which the other is within one per cent of where it ends, over those after
which Levenberg-Marquardt is there: of the mean over samples (`mean`), and of each sample (`each`); 0 where it never is;
`priced` is that mean with every call at what it takes in seconds beside a forward call (`prices`, of a machine that was
shared).
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
from torch.autograd import forward_ad
from torch.autograd.forward_ad import unpack_dual

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))

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
from pullback.zoo import denoiser, digit_images  # noqa: E402

STD, OURS = 0.05, "Levenberg-Marquardt"
Counts = tuple[int, int, int]  # forward calls, JVPs, VJPs
Line = list[tuple[Counts, list[float]]]
RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
OPTIMISERS: dict[str, Callable] = {f"Adam {lr}": adam(lr) for lr in RATES}
OPTIMISERS |= {"L-BFGS": lbfgs(), OURS: levenberg()}


class Counted(nn.Module):
    """A network that counts its forward calls, its JVPs, and the cotangents that come back."""

    def __init__(self, network: Callable) -> None:
        super().__init__()
        self.network, self.forwards, self.jvps, self.vjps = network, 0, 0, 0

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        dual = unpack_dual(x).tangent is not None if forward_ad._current_level >= 0 else False
        self.jvps, self.forwards = self.jvps + dual, self.forwards + (not dual)
        out = self.network(x, t)
        if out.requires_grad:
            out.register_hook(self.pulled)
        return out

    def pulled(self, grad: Tensor) -> None:
        self.vjps += 1

    @property
    def counts(self) -> Counts:
        return self.forwards, self.jvps, self.vjps


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


def curve(problem: Problem, optimiser: Callable, budget: int) -> Line:
    """What was called so far and the least objective of each sample, at every evaluation within the budget."""
    at, begin = list[Counts](), problem.network.counts

    def residual(x: Tensor) -> Tensor:
        f, j, v = (now - then for now, then in zip(problem.network.counts, begin, strict=True))
        if f + j + v > budget:
            raise KeyboardInterrupt  # what `optimise` ends on, with the best so far
        at.append((f, j, v))
        return problem.seen.residual(x)

    found = optimise(
        problem.counted, problem.plan, LeastSquares(residual, STD), problem.start, prior=NormPrior(),
        optimiser=optimiser, steps=10_000, gradient=Direct(), progress=False,
    )  # fmt: skip
    least = found.losses.cummin(0).values
    return list(zip(at, least.tolist(), strict=True))


def reached(
    line: Line, level: float, of: Callable[[list[float]], float], price: Counts | tuple = (1, 1, 1)
) -> float:
    """After what calls, at their prices, `of` the objectives is at most `level`; infinity where it never is."""
    for counts, values in line:
        if of(values) <= level * (1 + 1e-9):
            return sum(c * p for c, p in zip(counts, price, strict=True))
    return math.inf


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


def compared(lines: dict[str, Line], price: dict[str, float]) -> dict[str, Any]:
    """Where each ends, and how much earlier Levenberg-Marquardt is where the others end, to one per cent."""
    ends = {name: statistics.mean(line[-1][1]) for name, line in lines.items()}
    rate = min((name for name in lines if name.startswith("Adam")), key=ends.__getitem__)
    found: dict[str, Any] = {"ends": {name: ends[name] for name in (rate, "L-BFGS", OURS)}}

    def times(theirs: Line, of: Callable[[list[float]], float], price: tuple = (1, 1, 1)) -> float:
        """One that has converged is not charged for what it was given after that."""
        level = 1.01 * of(theirs[-1][1])
        return reached(theirs, level, of, price) / reached(lines[OURS], level, of, price)

    for name, theirs in ((rate, lines[rate]), ("L-BFGS", lines["L-BFGS"])):
        found[f"beside {name.split()[0]}"] = {
            "mean": times(theirs, statistics.mean),
            "each": [times(theirs, lambda values, b=b: values[b]) for b in range(len(theirs[0][1]))],
            "priced": times(theirs, statistics.mean, (1, price["jvp"], price["vjp"])),
        }
    return found | {"prices": price, "curves": {name: lines[name] for name in (rate, "L-BFGS", OURS)}}


def told(run: dict[str, Any]) -> str:
    """A line of it."""
    said = ", ".join(f"{name} {end:.5g}" for name, end in run["ends"].items())
    for name in ("beside Adam", "beside L-BFGS"):
        row = run[name]
        each = ", ".join(f"{ratio:.1f}" for ratio in row["each"])
        said += f"; {name} {row['mean']:.2f} x, each {each}, priced {row['priced']:.2f}"
    return said


def picture(rows: dict[str, list[dict[str, Any]]]) -> Any:
    """The mean objective against calls, a panel a problem, its first seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, -(-len(rows) // 2), figsize=(16, 7), layout="constrained", squeeze=False)
    for axis, (name, runs) in zip(axes.flat, rows.items(), strict=False):
        for (label, line), colour in zip(runs[0]["curves"].items(), ("C0", "C1", "C3"), strict=True):
            axis.plot([sum(c) for c, _ in line], [statistics.mean(v) for _, v in line], colour, label=label)
        axis.set(title=name, yscale="log")
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    figure.supxlabel("network calls: forward, JVP and VJP, one each")
    figure.supylabel("objective, mean over samples")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument(
        "--first", type=int, default=0, help="the first seed; what was chosen was chosen on 100 and up"
    )
    parser.add_argument("--budget", type=int, default=2400)
    parser.add_argument("--only", default="")
    parser.add_argument("--again", action="store_true", help="compare the curves in the JSON anew, and draw")
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results" / "levenberg.json")
    a = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, Any] = {}
    if a.again:
        facts = json.loads(a.out.read_text())
        for name, runs in facts["rows"].items():
            facts["rows"][name] = runs = [compared(run["curves"], run["prices"]) for run in runs]
            print("\n".join(f"{name:36s} {told(run)}" for run in runs))
        a.out.write_text(json.dumps(facts) + "\n")
        picture(facts["rows"]).savefig(a.out.with_suffix(".png"), dpi=110)
        return
    for name, make in PROBLEMS.items():
        if a.only not in name:
            continue
        runs = []
        for seed in range(a.first, a.first + a.seeds):
            torch.set_default_dtype(torch.float64 if name.startswith("mixture") else torch.float32)
            problem = make(seed)
            lines = {k: curve(problem, made, a.budget) for k, made in OPTIMISERS.items()}
            run = compared(lines, prices(problem))
            runs.append(run)
            print(f"{name:36s} {seed}: {told(run)}", flush=True)
        rows[name] = runs
        facts = {
            "torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine(),
            "threads": torch.get_num_threads(), "budget": a.budget, "seeds": a.seeds, "rows": rows,
        }  # fmt: skip
        a.out.write_text(json.dumps(facts) + "\n")
    picture(rows).savefig(a.out.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
