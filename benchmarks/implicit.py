"""Network calls to the optimum: one loop (Implicit Diffusion) beside unrolling, on mixtures whose optimum is known.

    python benchmarks/implicit.py      a minute of one core

writes benchmarks/results/implicit.json and .png. Calls, not seconds: of one sample (rows), and one after another (turns
of the sampler: what a machine waits for that has room for the rows). The optimum counts as reached from the first
update on after which the mean of the last 20 parameters has closed 95 % of the gap from start to optimum, and stays.

Langevin: V = V_0 - theta x on a mixture of 2: the law is that mixture tilted, with E|x - m|^2 and its optimum in closed
form. Beside it the same covariance after L fresh steps, and plain autograd through these steps; all with Adam at the
same rates, the best of which counts.

Denoising: DDIM of 10 steps on that mixture, its data prediction scaled and shifted by 4 numbers, towards m. The optimum
is that of unrolling with 200 updates of 128 samples.
"""

import functools
import json
import pathlib
import platform
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from pullback.adjoint import sample
from pullback.guidance import adam
from pullback.guidance.learning import LangevinChain, ShiftQueue, implicit_diffusion
from pullback.solvers import DATA, DDIM, VP, Addressed, Denoiser, Mixture, UniformLambda

OUT = pathlib.Path(__file__).parent / "results" / "implicit.json"
RATES, SEEDS, BATCH, SIZE = (0.03, 0.1), (0, 1, 2), 64, 0.05
POINT = torch.tensor([1.0, -0.5], dtype=torch.float64)
Trail = list[tuple[int, int, Tensor]]  # rows, calls one after another, parameters


MEANS = torch.tensor([[-1.0, 0.0], [1.0, 0.5]], dtype=torch.float64)
STDS = torch.tensor([0.5, 0.6], dtype=torch.float64)


def mixture() -> Mixture:
    return Mixture.isotropic(torch.ones(2).double() / 2, MEANS, STDS)


def tilted(theta: Tensor) -> Tensor:
    """E|x - m|^2 under e^{theta x} times the mixture: weights w e^{theta mu + s^2 theta^2/2}, means mu + s^2 theta."""
    weights = (MEANS @ theta + STDS**2 * theta.square().sum() / 2).softmax(0)
    return weights @ ((MEANS + STDS[:, None] ** 2 * theta - POINT).square().sum(1) + 2 * STDS**2)


@functools.cache
def least_tilted() -> float:
    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    descent = torch.optim.LBFGS([theta], max_iter=200, line_search_fn="strong_wolfe")

    def value() -> Tensor:
        descent.zero_grad()
        out = tilted(theta)
        out.backward()
        return out

    descent.step(value)  # type: ignore[arg-type]
    return float(tilted(theta).detach())


def tilted_gap(theta: Tensor) -> float:
    start, least = float(tilted(torch.zeros_like(theta))), least_tilted()
    return (float(tilted(theta)) - least) / (start - least)


def noise(count: int, seed: int) -> Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reached(trail: Trail, gap: Callable[[Tensor], float]) -> tuple[int, int] | None:
    """(rows, calls one after another) from which on, looked at every 5th update, gap < 0.05 for good."""
    values = torch.stack([theta for *_, theta in trail])
    places = range(4, len(values), 5)
    wide = [k for k in places if gap(values[max(0, k - 19) : k + 1].mean(0)) > 0.05]
    first = 4 if not wide else wide[-1] + 5
    return trail[first][:2] if first < len(trail) else None


def langevin(kind: str, rate: float, seed: int, budget: int = 150_000) -> Trail:
    base = mixture()
    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    trail: Trail = []

    def energy(x: Tensor) -> Tensor:
        return -base.log_prob(x) - x @ theta

    if kind == "one loop":
        turns = []

        def seen(x: Tensor) -> Tensor:
            trail.append((2 * BATCH * len(turns), len(turns), theta.detach().clone()))
            turns.append(1)
            return towards(x)

        chain = LangevinChain(energy, noise(BATCH, seed), SIZE, Addressed(seed))
        implicit_diffusion(chain, seen, [theta], optimiser=adam(rate), steps=600, progress=False)
        return trail
    inner, descent = int(kind.split()[-1]), torch.optim.Adam([theta], rate)
    rows = calls = 0
    while rows < budget:
        x = noise(BATCH, seed + 1000 * len(trail)).requires_grad_()
        for k in range(inner):
            through = kind.startswith("unrolled")
            slope = torch.autograd.grad(energy(x).sum(), x, create_graph=through)[0]
            x = x - SIZE * slope + (2 * SIZE) ** 0.5 * noise(BATCH, seed + 7 * k + 10_000 * len(trail))
            x = x if through else x.detach().requires_grad_()
        value = towards(x)
        if kind.startswith("unrolled"):
            objective, backwards = value.mean(), inner
        else:
            objective, backwards = -((value - value.mean()).detach() @ energy(x)) / (BATCH - 1), 1
        descent.zero_grad()
        objective.backward()
        descent.step()
        rows, calls = rows + BATCH * (inner + backwards), calls + inner + backwards
        trail.append((rows, calls, theta.detach().clone()))
    return trail


def shifted(theta: Tensor) -> Denoiser:
    exact, process = mixture().denoiser(VP()), VP()

    def data(x: Tensor, t: Tensor) -> Tensor:
        return exact(x, t) * (1 + theta[:2]) + theta[2:]

    assert exact.prediction == DATA
    return Denoiser(data, process, DATA)


def towards(x: Tensor) -> Tensor:
    return (x - POINT).square().sum(1)


def denoising(kind: str, rate: float, seed: int, updates: int, batch: int = 16) -> Trail:
    theta = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    model, plan = shifted(theta), DDIM().plan(VP(), UniformLambda(10, 1.0, 0.02))
    trail: Trail = []
    if kind == "one loop":
        turns = []

        def seen(x: Tensor) -> Tensor:
            k = len(turns) + plan.steps  # runs come in from turn N on
            trail.append((3 * plan.steps * batch * k, 3 * k, theta.detach().clone()))
            turns.append(1)
            return towards(x)

        queue = ShiftQueue(model, plan, lambda k: noise(batch, 100_000 * seed + k))
        implicit_diffusion(queue, seen, [theta], optimiser=adam(rate), steps=updates, progress=False)
        return trail
    descent = torch.optim.Adam([theta], rate)
    for k in range(updates):
        descent.zero_grad()
        towards(sample(model, plan, noise(batch, 100_000 * seed + k))).mean().backward()
        descent.step()
        trail.append((3 * plan.steps * batch * (k + 1), 3 * plan.steps * (k + 1), theta.detach().clone()))
    return trail


def best_of(make: Callable[[float, int], Trail], gap: Callable[[Tensor], float]) -> dict[str, Any]:
    """The rate with which the median seed needs fewest rows."""
    tried = {rate: [reached(make(rate, seed), gap) for seed in SEEDS] for rate in RATES}
    whole = {rate: sorted(found) for rate, found in tried.items() if all(found)}  # type: ignore[type-var]
    if not whole:
        return {"reached": False, "seeds": tried}
    rate = min(whole, key=lambda r: whole[r][1])
    rows, calls = whole[rate][1]
    return {"reached": True, "rate": rate, "rows": rows, "calls in sequence": calls, "seeds": whole[rate]}


def draw(rows: dict[str, dict[str, Any]]) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.4))
    for axis, problem in zip(axes, ("Langevin", "denoising"), strict=True):
        mine = {k.split("/")[1]: v for k, v in rows.items() if k.startswith(problem) and v["reached"]}
        for j, figure_of in enumerate(("rows", "calls in sequence")):
            axis.barh(
                [i + 0.4 * j for i in range(len(mine))],
                [v[figure_of] for v in mine.values()],
                0.38,
                label=figure_of,
            )
        axis.set(
            title=problem,
            yticks=range(len(mine)),
            yticklabels=list(mine),
            xscale="log",
            xlabel="to the optimum",
        )
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(OUT.with_suffix(".png"), dpi=110)


def main() -> None:
    torch.set_num_threads(1)
    rows: dict[str, dict[str, Any]] = {}
    for kind in ("one loop", "covariance after 100", "covariance after 30", "unrolled 30"):
        rows[f"Langevin/{kind}"] = best_of(
            lambda rate, seed, kind=kind: langevin(kind, rate, seed), tilted_gap
        )
        print(kind, rows[f"Langevin/{kind}"], flush=True)

    def value(theta: Tensor) -> float:
        plan = DDIM().plan(VP(), UniformLambda(10, 1.0, 0.02))
        return float(towards(sample(shifted(theta), plan, noise(128, 77), gradient=None)).mean())

    best = value(denoising("unrolled", 0.03, 9, 200, batch=128)[-1][2])
    worst = value(torch.zeros(4, dtype=torch.float64))
    for kind in ("one loop", "unrolled"):
        rows[f"denoising/{kind}"] = best_of(
            lambda rate, seed, kind=kind: denoising(kind, rate, seed, 150),
            lambda theta: (value(theta) - best) / (worst - best),
        )
        print(kind, rows[f"denoising/{kind}"], flush=True)
    facts = {"torch": torch.__version__, "machine": platform.machine(), "threads": 1, "rows": rows}
    OUT.write_text(json.dumps(facts, indent=1) + "\n")
    draw(rows)


if __name__ == "__main__":
    main()
