"""Inverse problems with known truth: every guide against the exact posterior of a mixture, its floor and its oracle.

    python benchmarks/inverse.py [--seeds 4 --samples 300 --steps 60 --digits 100]

writes benchmarks/results/inverse.json and docs/inverse.md. G1: 25 Gaussians on a grid of spacing 8, repeated over d
dimensions, random weights, random A (m, d) with singular values in (0, 1), s_y = 0.1. G2: a full-covariance mixture fitted
to scikit-learn's 8x8 digits. The posterior is a mixture again, so draws from it, and p(y|x_t), are exact.

A method is an `Entry`: a function of (problem, start, seed, scale) that returns samples, NFE and VJPs; add a line to ENTRIES.
Scales are chosen, from the few listed, on a measurement of its own (seed 999) with a third of the samples.
"""

import argparse
import json
import pathlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from pullback.adjoint import sample
from pullback.guidance import (
    DAPS,
    DDNM,
    DPS,
    LGD,
    MCG,
    MPGD,
    TFG,
    TMPD,
    ClassifierGuidance,
    DiffPIR,
    FlowChef,
    FreeDoM,
    Guide,
    Lookahead,
    Matrix,
    Measurement,
    PiGDM,
    Raw,
    REDdiff,
    Residual,
    ScoreRatio,
    Travel,
    Unit,
    Universal,
    steer,
)
from pullback.solvers import DDIM, VP, Addressed, Mixture, UniformLambda
from torch import Tensor

ROOT = pathlib.Path(__file__).parents[1]
PROCESS, STD = VP(), 0.1


@dataclass(eq=False)
class Problem:
    """One measurement of one draw from a mixture, and its exact posterior."""

    name: str
    prior: Mixture
    matrix: Tensor
    y: Tensor
    steps: int
    spread: float
    seen: Measurement = field(init=False)
    posterior: Mixture = field(init=False)

    def __post_init__(self) -> None:
        self.seen = Measurement(Matrix(self.matrix), self.y, STD)
        self.posterior = self.prior.posterior(self.matrix, self.y[0], STD)

    def plan(self, eta: float):
        return DDIM(eta).plan(PROCESS, UniformLambda(self.steps, start=0.999, end=0.002))

    def log_likelihood(self, x: Tensor, t: Tensor) -> Tensor:
        """log p(y|x_t) + log p(y), by Bayes' rule from the two marginals: exact."""
        alpha, sigma = PROCESS.alpha(t[0]), PROCESS.sigma(t[0])
        return self.posterior.log_prob(x, alpha, sigma) - self.prior.log_prob(x, alpha, sigma)


def grid_mixture(d: int, m: int, seed: int, steps: int) -> Problem:
    """G1."""
    g = torch.Generator().manual_seed(10_000 * d + 1_000 * m + seed)
    nodes = 8.0 * torch.arange(-2, 3)
    weights = torch.rand(25, generator=g) + 1e-3
    prior = Mixture.isotropic(weights / weights.sum(), torch.cartesian_prod(nodes, nodes).repeat(1, d // 2), 1.0)
    left, right = (torch.linalg.qr(torch.randn(n, m, generator=g))[0] for n in (m, d))
    matrix = left @ torch.diag(torch.rand(m, generator=g)) @ right.T
    y = prior.sample(1, g) @ matrix.T + STD * torch.randn(1, m, generator=g)
    return Problem(f"G1 d={d} m={m}", prior, matrix, y, steps, spread=8 * 2**0.5)


def digits_prior() -> tuple[Mixture, Tensor]:
    """G2: a mixture of 10 full covariances on four fifths of the digits in [-1, 1]; the others."""
    from sklearn.datasets import load_digits
    from sklearn.mixture import GaussianMixture

    images = load_digits(return_X_y=True)[0] / 8.0 - 1.0
    kept, held = images[: 4 * len(images) // 5], images[4 * len(images) // 5 :]
    fit = GaussianMixture(10, covariance_type="full", reg_covar=1e-3, random_state=0).fit(kept)
    weights, means, covs = (torch.as_tensor(v) for v in (fit.weights_, fit.means_, fit.covariances_))
    return Mixture(weights, means, (covs + covs.mT) / 2), torch.as_tensor(held)


def digit_problem(prior: Mixture, held: Tensor, kind: str, seed: int, steps: int) -> Problem:
    g = torch.Generator().manual_seed(seed)
    if kind == "down-sampling by 4":
        rows = torch.kron(torch.eye(2), torch.ones(4)) / 4
        matrix = torch.kron(rows, rows)
    else:  # inpainting: 16 pixels are seen
        matrix = torch.eye(64)[torch.randperm(64, generator=g)[:16]]
    truth = held[torch.randint(len(held), (1,), generator=g)]
    y = truth @ matrix.T + STD * torch.randn(1, len(matrix), generator=g)
    return Problem(f"G2 digits, {kind}", prior, matrix, y, steps, spread=0.7)


Run = Callable[[Problem, Tensor, int, float], tuple[Tensor, int, int]]


@dataclass(frozen=True)
class Entry:
    """A method: its run and the scales it may choose from."""

    name: str
    run: Run
    scales: tuple[float, ...] = (1.0,)


def guided(make: Callable[[Problem, float], Guide], eta: float = 1.0) -> Run:
    """A guide as an entry, on DDIM(eta)."""
    def run(p: Problem, x: Tensor, seed: int, scale: float) -> tuple[Tensor, int, int]:
        draws = Addressed(seed, stream=7)
        found = steer(p.prior.denoiser(PROCESS), p.plan(eta), x, make(p, scale), noise=Addressed(seed), draws=draws)
        return found.sample, found.nfe, found.vjps

    return run


def exact(p: Problem, x: Tensor, seed: int, scale: float) -> tuple[Tensor, int, int]:
    return p.posterior.sample(len(x), torch.Generator().manual_seed(seed + 77)), 0, 0


def unguided(p: Problem, x: Tensor, seed: int, scale: float) -> tuple[Tensor, int, int]:
    plan = p.plan(1.0)
    return sample(p.prior.denoiser(PROCESS), plan, x, noise=Addressed(seed), gradient=None), plan.nfe, 0


ENTRIES = [
    Entry("floor: exact draws", exact),
    Entry("oracle: true p(y given x_t)", guided(lambda p, s: ClassifierGuidance(p.log_likelihood))),
    Entry("TMPD", guided(lambda p, s: TMPD(p.seen))),
    Entry("TMPD + Travel(16)", guided(lambda p, s: TMPD(p.seen) + Travel(16, 0.3, 0.5))),
    Entry("PiGDM", guided(lambda p, s: PiGDM(p.seen, s * p.spread)), (0.1, 0.4, 1.0)),
    Entry("DPS", guided(lambda p, s: DPS(p.seen, Residual(s))), (0.03, 0.1, 0.3, 1.0)),
    Entry("MCG", guided(lambda p, s: MCG(p.seen, Residual(s))), (0.03, 0.3)),
    Entry("LGD", guided(lambda p, s: LGD(p.seen, 8, 1.0, Residual(s))), (0.1, 0.3)),
    Entry("MPGD", guided(lambda p, s: MPGD(p.seen, Raw(s))), (0.1, 0.5)),
    Entry("FreeDoM, travels 4", guided(lambda p, s: FreeDoM(p.seen, ScoreRatio(s), 4, 0.2, 0.6)), (0.03, 0.1)),
    Entry("universal guidance", guided(lambda p, s: Universal(p.seen, Raw(s), Raw(0.1), 3)), (0.1, 0.5)),
    Entry("TFG", guided(lambda p, s: TFG(p.seen, Unit(s), Unit(0.25), 4)), (0.1, 0.3)),
    Entry("DDNM", guided(lambda p, s: DDNM(p.seen))),
    Entry("DiffPIR", guided(lambda p, s: DiffPIR(p.seen, s)), (0.01, 0.1, 1.0)),
    Entry("RED-diff", guided(lambda p, s: REDdiff(p.seen.nats, s, 0.3)), (0.25, 1.0)),
    Entry("DAPS", guided(lambda p, s: DAPS(p.seen, 4), 0.0)),
    Entry("FlowChef", guided(lambda p, s: FlowChef(p.seen, Raw(s)), 0.0), (0.05, 0.2)),
    Entry("lookahead, k=4", guided(lambda p, s: Lookahead(p.seen, 4, Residual(s)), 0.0), (0.1, 0.3)),
    Entry("prior: no guidance", unguided),
]


def sliced_w2(a: Tensor, b: Tensor, directions: Tensor) -> float:
    """Root mean over directions of the squared 1-D Wasserstein distance."""
    return float(((a @ directions).sort(0).values - (b @ directions).sort(0).values).square().mean().sqrt())


def coverage(a: Tensor, b: Tensor, directions: Tensor) -> float:
    """Share of a's draws inside b's central 90 % along the directions: 0.9 if calibrated."""
    low, high = torch.quantile(b @ directions, torch.tensor([0.05, 0.95]), dim=0)
    seen = a @ directions
    return float(((seen >= low) & (seen <= high)).double().mean())


def measured(entry: Entry, p: Problem, seed: int, n: int, scale: float) -> dict[str, float]:
    g = torch.Generator().manual_seed(seed)
    x, d = torch.randn(n, p.matrix.shape[1], generator=g), p.matrix.shape[1]
    truth = p.posterior.sample(n, g)
    directions = torch.nn.functional.normalize(torch.randn(d, 100, generator=g), dim=0)
    began = time.perf_counter()
    try:
        found, nfe, vjps = entry.run(p, x, seed, scale)
    except FloatingPointError:
        return {"sw2": float("inf"), "coverage": 0.0, "nfe": 0, "vjps": 0, "seconds": 0.0}
    seconds = time.perf_counter() - began
    return {"sw2": sliced_w2(found, truth, directions), "coverage": coverage(found, truth, directions), "nfe": nfe, "vjps": vjps,
            "seconds": seconds}


def table(make: Callable[[int], Problem], seeds: int, n: int) -> dict[str, dict[str, Any]]:
    """Every entry on `seeds` measurements."""
    rows = {}
    trial, problems = make(999), [make(seed) for seed in range(seeds)]
    for entry in ENTRIES:
        scale = entry.scales[0]
        if len(entry.scales) > 1:
            scale = min(entry.scales, key=lambda s: measured(entry, trial, 999, max(n // 3, 30), s)["sw2"])  # noqa: B023
        runs = [measured(entry, p, seed, n, scale) for seed, p in enumerate(problems)]
        distances = [r["sw2"] for r in runs]
        rows[entry.name] = {"scale": scale, "chosen": len(entry.scales) > 1,
                            "mean": statistics.mean(distances), "median": statistics.median(distances),
                            "each": distances, "coverage": statistics.mean(r["coverage"] for r in runs), "nfe": runs[0]["nfe"],
                            "vjps": runs[0]["vjps"], "seconds": statistics.median(r["seconds"] for r in runs)}
        print(f"{trial.name:28s} {entry.name:28s} {rows[entry.name]['mean']:7.3f} {rows[entry.name]['median']:7.3f}", flush=True)
    return rows


def page(facts: dict[str, Any]) -> str:
    """docs/inverse.md."""
    text = f"""# Inverse problems with a known answer

Written by `benchmarks/inverse.py`; do not edit.

Sliced 2-Wasserstein distance of a method's draws to draws from the exact posterior (mean and median over {facts['seeds']}
measurements), share of draws inside the posterior's central 90 % (0.90 is calibrated), network calls, VJPs and seconds per
batch. {facts['samples']} samples ({facts['digits']} for digits), {facts['steps']} steps, float64, one thread of a shared machine:
seconds are rough. Scales are the best of the few that the script lists, chosen on a measurement apart; none shown: there is
none to choose. Few measurements and light tuning: these rankings are for planning, and do not transfer to images by themselves.
"""
    lines = [text.rstrip()]
    for name, rows in facts["problems"].items():
        lines += ["", f"## {name}", "", "| method | scale | mean | median | coverage | NFE | VJPs | s |", "|---" * 8 + "|"]
        for method, r in sorted(rows.items(), key=lambda item: item[1]["median"]):
            scale = f"{r['scale']:g}" if r["chosen"] else ""
            lines.append(f"| {method} | {scale} | {r['mean']:.3g} | {r['median']:.3g} | {r['coverage']:.2f} | {r['nfe']} "
                         f"| {r['vjps']} | {r['seconds']:.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in (("seeds", 4), ("samples", 300), ("steps", 60), ("digits", 100)):
        parser.add_argument(f"--{name}", type=int, default=default)
    a = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    facts: dict[str, Any] = {"seeds": a.seeds, "samples": a.samples, "steps": a.steps, "digits": a.digits, "problems": {}}

    def done(name: str, rows: dict[str, dict[str, Any]]) -> None:
        """Written after each problem: a run cut short leaves what it measured."""
        facts["problems"][name] = rows
        (ROOT / "benchmarks/results/inverse.json").write_text(json.dumps(facts, indent=1) + "\n")
        (ROOT / "docs/inverse.md").write_text(page(facts))

    for d, m in ((8, 1), (8, 2), (8, 4)):
        done(f"G1 d={d} m={m}", table(lambda s: grid_mixture(d, m, s, a.steps), a.seeds, a.samples))  # noqa: B023
    prior, held = digits_prior()
    for kind in ("down-sampling by 4", "inpainting, 16 of 64 pixels seen"):
        done(f"G2 digits, {kind}", table(lambda s: digit_problem(prior, held, kind, s, a.steps), a.seeds, a.digits))  # noqa: B023
    for d, m in ((80, 1), (80, 2), (80, 4)):
        done(f"G1 d={d} m={m}", table(lambda s: grid_mixture(d, m, s, a.steps), a.seeds, a.samples))  # noqa: B023


if __name__ == "__main__":
    main()
