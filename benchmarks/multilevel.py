"""Work of multilevel gradients beside the exact gradient of the fine sampler, at equal variance.

    python benchmarks/multilevel.py      writes benchmarks/results/multilevel.json and .png

Work is network calls and VJPs (3 N of an exact gradient under Checkpoint), variance the trace of one sample's
gradient. Levels are chosen by one half of the samples (the pilot) and judged by the other: variance times work of the
fine grid alone over that of the levels. No figure depends on time.

Problems: a mixture of 3 on the line and one of 16 in the plane, gradients at their own means (and deviations); the
bundled digits, log p(3 | x) by a classifier, gradients at all 160 thousand weights. "limit": z of 2,000 draws without
an end against the closed form, for several seeds.
"""

import argparse
import json
import math
import pathlib
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pullback.adjoint import (
    Checkpoint,
    CoupledSum,
    GridLevels,
    IndependentDraws,
    Pilot,
    SingleTerm,
    measured_levels,
    sample,
    sample_multilevel,
)
from pullback.solvers import (
    DATA,
    DDIM,
    VP,
    Addressed,
    Denoiser,
    DPMSolverPP,
    Method,
    SDEDPMSolverPP,
    UniformLambda,
)

HERE = pathlib.Path(__file__).parent
STEPS = (3, 5, 7, 10, 20, 50, 100, 1000)
TARGETS = (20, 100, 1000)
METHODS: dict[str, Method] = {
    "DPM-Solver++(2M)": DPMSolverPP(2),
    "DDIM": DDIM(),
    "SDE-DPM-Solver++(2M)": SDEDPMSolverPP(2),
}
GRID = UniformLambda(1000, start=1.0, end=0.03)
PROCESS = VP()


@dataclass(frozen=True, eq=False)
class ToyMixture:
    """K isotropic components in d dimensions; theta (B, K d + K) are every sample's own means and deviations."""

    weights: Tensor
    means: Tensor
    stds: Tensor
    worth: Callable[[Tensor], Tensor]

    def theta(self, count: int) -> Tensor:
        return torch.cat([self.means.flatten(), self.stds]).repeat(count, 1).requires_grad_()

    def parts(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        split = self.means.numel()
        return theta[:, :split].unflatten(1, self.means.shape), theta[:, split:]

    def denoiser(self) -> Denoiser:
        def network(x: Tensor, t: Tensor, theta: Tensor) -> Tensor:
            means, stds = self.parts(theta)
            a, sigma = PROCESS.alpha(t)[:, None], PROCESS.sigma(t)[:, None]
            spread = a**2 * stds**2 + sigma**2  # (B, K)
            off = x[:, None] - a[..., None] * means  # (B, K, d)
            logits = self.weights.log() - 0.5 * off.square().sum(2) / spread - 0.5 * x.shape[1] * spread.log()
            pull = (a * stds**2 / spread)[..., None] * off
            return (logits.softmax(1)[..., None] * (means + pull)).sum(1)

        return Denoiser(network, PROCESS, DATA)

    def starts(self, theta: Tensor, seed: int) -> Tensor:
        """Draws of the law at the grid's start; for the limit they follow theta."""
        means, stds = self.parts(theta)
        generator = torch.Generator().manual_seed(seed)
        which = torch.multinomial(self.weights, len(theta), replacement=True, generator=generator)
        z = torch.randn(len(theta), self.means.shape[1], generator=generator)
        a, sigma = PROCESS.alpha(1.0), PROCESS.sigma(1.0)
        rows = torch.arange(len(theta))
        return a * means[rows, which] + (a**2 * stds[rows, which] ** 2 + sigma**2).sqrt()[:, None] * z

    def pilots(self, method: Method, count: int) -> list[Pilot]:
        """The moments of two halves of 2 `count` samples."""
        ladder = GridLevels(method, PROCESS, GRID, STEPS, CoupledSum((1.0,) * len(STEPS)))
        theta, noise, each = self.theta(2 * count), Addressed(1), []
        x = self.starts(theta, 0).detach()
        for level in range(len(STEPS)):
            drawn = ladder.noise(noise, tuple(range(2 * count)), level)
            out = sample(
                self.denoiser(), ladder.plan(level), x, cond=theta, noise=drawn, gradient=Checkpoint()
            )
            each += torch.autograd.grad(self.worth(out).sum(), theta)
        return [
            self._pilot(ladder, torch.stack(each)[:, part]) for part in (slice(count), slice(count, None))
        ]

    @staticmethod
    def _pilot(ladder: GridLevels, each: Tensor) -> Pilot:
        count = each.shape[1]
        second = torch.einsum("kbp,lbp->kl", each, each) / count
        off = each - each.mean(1, keepdim=True)
        cov = torch.einsum("kbp,lbp->kl", off, off) / (count - 1)
        return Pilot(ladder, second, cov, tuple(3.0 * n for n in STEPS), count)


LINE = ToyMixture(
    torch.tensor([0.3, 0.45, 0.25], dtype=torch.float64),
    torch.tensor([[1.0], [-0.8], [0.2]], dtype=torch.float64),
    torch.tensor([0.35, 0.45, 0.3], dtype=torch.float64),
    lambda x: torch.cos(2 * x[:, 0]) + 0.5 * x[:, 0] ** 2,
)
_AROUND = torch.arange(16, dtype=torch.float64)
SIXTEEN = ToyMixture(
    torch.full((16,), 1 / 16, dtype=torch.float64),
    torch.stack([(_AROUND % 4) - 1.5, (_AROUND // 4) - 1.5], 1),
    torch.full((16,), 0.25, dtype=torch.float64),
    lambda x: -0.5 * (x - 1).square().sum(1),
)


def digits(method: Method, count: int) -> list[Pilot]:
    """The same for the bundled digits, in float32 as they come."""
    from pullback.zoo import denoiser, load

    model, classifier = denoiser("digits"), load("classifier0")
    for network in model.networks():
        network.requires_grad_(True)

    def reward(x: Tensor) -> Tensor:
        return classifier(x).log_softmax(1)[:, 3]

    found = []
    for half in range(2):
        noise = Addressed(0, tuple(range(half * count, (half + 1) * count)))
        x = noise.initial(torch.zeros(count, 1, 8, 8, dtype=torch.float32))
        found.append(measured_levels(model, method, GRID, STEPS, x, reward, noise=noise))
    return found


def upto(pilot: Pilot, steps: int) -> Pilot:
    """The grids of at most `steps` steps."""
    k = STEPS.index(steps) + 1
    ladder = replace(pilot.ladder, steps=STEPS[:k], allocation=CoupledSum((1.0,) * k))
    return Pilot(ladder, pilot.second[:k, :k], pilot.cov[:k, :k], pilot.costs[:k], pilot.count)


def held_out_gain(levels: GridLevels, other: Pilot) -> float:
    """Variance times work of the finest grid alone over that of `levels`, by another pilot's moments."""
    kept = torch.tensor([other.ladder.steps.index(n) for n in levels.steps])
    cov, costs = other.cov[kept][:, kept], [other.costs[int(k)] for k in kept]
    own, listed = cov.diagonal(), range(len(kept))
    if isinstance(levels.allocation, SingleTerm):
        moments = [own[0], *(own[k] + own[k - 1] - 2 * cov[k, k - 1] for k in listed[1:])]
        shares = [p / sum(levels.allocation.probabilities) for p in levels.allocation.probabilities]
    else:
        assert isinstance(levels.allocation, CoupledSum)
        off = [own[-1], *(own[k] + own[-1] - 2 * cov[k, -1] for k in listed)]
        moments, shares = [a - b for a, b in zip(off, off[1:], strict=False)], levels.allocation.shares
    variance = float(sum(m / p for m, p in zip(moments, shares, strict=True)))
    work = sum(levels.allocation.runs(k) * costs[k] for k in listed)
    return float(own[-1]) * costs[-1] / (variance * work)


def row(pilot: Pilot, other: Pilot, steps: int) -> dict[str, Any]:
    """Figures of one target."""
    pilot, other = upto(pilot, steps), upto(other, steps)
    levels = pilot.levels()
    alone = replace(levels, steps=(steps,), allocation=CoupledSum((1.0,)))
    assert abs(held_out_gain(alone, other) - 1) < 1e-9
    mean = (pilot.second - pilot.cov + other.second - other.cov) / 2
    size = mean.diagonal().clamp(min=1e-300).sqrt()
    return {
        "levels": levels.steps,
        "allocation": str(levels.allocation),
        "gain_predicted": pilot.gain(),
        "gain": held_out_gain(levels, other),
        "gain_independent_draws_predicted": pilot.gain(IndependentDraws()),
        "coarse_alone": {
            n: {"cosine": float(mean[k, -1] / size[k] / size[-1]), "norm": float(size[k] / size[-1])}
            for k, n in enumerate(pilot.ladder.steps[:-1])
        },
    }


def differences(pilots: list[Pilot]) -> list[float]:
    """Var[f_l - f_{l-1}] / Var f_L of both halves."""
    cov = torch.stack([p.cov for p in pilots]).mean(0)
    own = cov.diagonal()
    return ((own[1:] + own[:-1] - 2 * cov.diagonal(1)) / own[-1]).tolist()


def limit(method: Method, steps: tuple[int, ...], allocation: CoupledSum, seed: int) -> dict[str, Any]:
    """z of the gradient of 2,000 draws without an end, on the line, against the law at the end."""
    levels = GridLevels(method, PROCESS, GRID, steps, allocation, IndependentDraws())
    theta = LINE.theta(2000)
    x = LINE.starts(theta, seed)
    drawn = sample_multilevel(LINE.denoiser(), levels, x, cond=theta, noise=Addressed(seed))
    (each,) = torch.autograd.grad(drawn.mean(LINE.worth(drawn.samples)), theta)
    each = 2000 * each
    one = LINE.theta(1)
    means, stds = LINE.parts(one)
    a, sigma = PROCESS.alpha(0.03), PROCESS.sigma(0.03)
    m, v = a * means[0, :, 0], a**2 * stds[0] ** 2 + sigma**2
    value = (LINE.weights * (torch.exp(-2 * v) * torch.cos(2 * m) + 0.5 * (m**2 + v))).sum()
    (exact,) = torch.autograd.grad(value, one)
    z = (each.mean(0) - exact[0]) / (each.std(0) / math.sqrt(2000))
    return {
        "seed": seed,
        "z": z.tolist(),
        "calls_a_draw": drawn.calls / 2000,
        "finest": levels.plan(int(drawn.levels.max())).steps,
    }


LIMITS: dict[str, tuple[Method, tuple[int, ...], CoupledSum]] = {
    "DPM-Solver++(2M)": (DPMSolverPP(2), (4, 8), CoupledSum((1.0, 0.3), 2**-2.5)),
    "SDE-DPM-Solver++(2M)": (SDEDPMSolverPP(2), (4, 8, 16), CoupledSum((1.0, 0.8, 0.5), 2**-1.5)),
}


def figure(facts: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    picture = Figure(figsize=(11, 4.2))
    left, right = picture.subplots(1, 2)
    # the data by colour, of those that survive colour blindness; the sampler by line and marker
    colours = {"line": "#0072B2", "16 in the plane": "#D55E00", "digits": "#009E73"}
    lines = {"DPM-Solver++(2M)": ("-", "o"), "DDIM": ("--", "s"), "SDE-DPM-Solver++(2M)": (":", "^")}
    for name, problem in facts["problems"].items():
        data, sampler = name.split(", ")
        line, marker = lines[sampler]
        style = {"color": colours[data], "ls": line, "marker": marker, "label": name}
        left.plot(TARGETS, [problem["targets"][str(n)]["gain"] for n in TARGETS], **style)
        right.plot(STEPS[1:], problem["differences"], **style)
    left.axhline(1, color="grey", lw=0.8)
    left.set(
        xscale="log",
        yscale="log",
        xlabel="steps of the sampler",
        ylabel="exact gradient's work / multilevel's",
    )
    right.set(
        xscale="log",
        yscale="log",
        xlabel="steps of the finer grid",
        ylabel="variance of the difference / of the gradient",
    )
    right.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    picture.tight_layout()
    return picture


def cases(count: int, images: int) -> dict[str, Callable[[], list[Pilot]]]:
    """What is measured, by name."""
    found: dict[str, Callable[[], list[Pilot]]] = {}
    for toy, problem in (("line", LINE), ("16 in the plane", SIXTEEN)):
        for name, method in METHODS.items():
            found[f"{toy}, {name}"] = lambda m=method, p=problem: p.pilots(m, count)
    for name in ("DPM-Solver++(2M)", "SDE-DPM-Solver++(2M)"):
        found[f"digits, {name}"] = lambda m=METHODS[name]: digits(m, images)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=400, help="samples a half, of mixtures")
    parser.add_argument("--images", type=int, default=16, help="samples a half, of digits")
    parser.add_argument(
        "--only", default="", help="part of a name: run this again, keep the rest of the file"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    out = HERE / "results" / "multilevel.json"
    facts: dict[str, Any] = json.loads(out.read_text()) if given.only and out.exists() else {"problems": {}}
    facts |= {"torch": torch.__version__, "machine": platform.machine(), "threads": 1, "steps": STEPS}
    if not given.only:
        facts["limit"] = {name: [limit(*case, seed) for seed in range(5)] for name, case in LIMITS.items()}
    for name, make in cases(given.count, given.images).items():
        if given.only not in name:
            continue
        pilots = make()
        facts["problems"][name] = {
            "samples_a_half": pilots[0].count,
            "targets": {str(n): row(pilots[0], pilots[1], n) for n in TARGETS},
            "differences": differences(pilots),
        }
        for n, found in facts["problems"][name]["targets"].items():
            gains = f"{found['gain']:6.2f} ({found['gain_predicted']:.2f} predicted)"
            print(f"{name:38s} {n:>5s} steps: {gains} by {found['levels']}", flush=True)
        out.write_text(json.dumps(facts, indent=1) + "\n")
    figure(facts).savefig(out.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
