"""Learned plans of 5 calls beside 2M, DEIS and UniPC of 5 to 10, on noise that nothing was learned from.

    python benchmarks/learned.py      about 15 minutes of one core

writes benchmarks/results/learned.json and .png; rows that the file already has are kept, so that a run goes on where it
was cut off. Everything is judged against a teacher of 60 calls from the same noise; the grids of the published methods
are the best of three (uniform in lambda or t, Karras) for each, the learned ones start from 2M (flows: Adams-Bashforth
2) on the first of them. Other judges than the loss: classifier or embedder features, sliced Wasserstein distance to
teacher samples. Other conditions: another guidance scale, and noise 1.1 times too strong.
"""

import functools
import json
import math
import pathlib
import platform
import time
import warnings
from collections.abc import Callable
from typing import cast

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from pullback.adjoint import sample
from pullback.guidance.learning import (
    LearnedCoefficients,
    LearnedLabels,
    LearnedTimes,
    ays,
    bespoke,
    d_ode,
    learn_solver,
    s4s,
)
from pullback.solvers import (
    DEIS,
    VP,
    ClassifierFree,
    DPMSolverPP,
    FlowAdams,
    GivenTimes,
    Grid,
    Karras,
    Method,
    Mixture,
    Model,
    Plan,
    UniformLambda,
    UniformT,
    UniPC,
)
from pullback.zoo import denoiser, load

HERE = pathlib.Path(__file__).parent

OUT = HERE / "results" / "learned.json"
CALLS = (5, 6, 8, 10)
FRESH = {"mixture": 48, "digits": 48, "digits_flow": 48, "faces": 24}  # noise that nothing was learned from
# noise that was, a quarter of it held out
SIZES = {"mixture": 48, "digits": 56, "digits_flow": 40, "faces": 24}
STEPS = {"mixture": 15, "digits": 15, "digits_flow": 15, "faces": 5}
ALL_PARTS = {"faces": (12, 10)}  # draws and steps where all is learned: half the draws, twice the steps
MORE_DRAWS = (
    "times, coefficients, labels, more draws and fewer steps"  # as SIZES and STEPS have them, on faces
)
SEEDS = {"mixture": 3, "digits": 1, "digits_flow": 1, "faces": 1}
LEARNED = {
    "times": lambda method: [LearnedTimes(method)],
    "coefficients, labels": lambda method: [LearnedCoefficients(), LearnedLabels()],
    "times, coefficients, labels": lambda method: [
        LearnedTimes(method),
        LearnedCoefficients(),
        LearnedLabels(),
    ],
}
LEARNED[MORE_DRAWS] = LEARNED["times, coefficients, labels"]


def problem(name: str) -> tuple[Model, tuple[int, ...], torch.dtype]:
    """(model, shape of a sample, dtype)."""
    if name == "mixture":
        g = torch.Generator().manual_seed(5)
        means = torch.randn(8, 16, generator=g, dtype=torch.float64)
        mixture = Mixture.isotropic(torch.full((8,), 1 / 8).double(), means, torch.full((8,), 0.2).double())
        return mixture.denoiser(VP()), (16,), torch.float64
    return denoiser(name), (1, 8, 8) if name.startswith("digits") else (1, 25, 25), torch.float32


def start(name: str, seed: int, count: int) -> tuple[Tensor, Tensor | None]:
    """(noise, labels)."""
    _, shape, dtype = problem(name)
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 10 if name.startswith("digits") else None
    return torch.randn(count, *shape, generator=g, dtype=dtype), labels


def grids(name: str) -> list[Callable[[int], Grid]]:
    """The start of what is learned first."""
    if name.endswith("_flow"):
        return [
            lambda n: UniformT(n),
            lambda n: Karras(n, 0.999, 1e-3),
            lambda n: UniformLambda(n, 0.999, 1e-3),
        ]
    ends = {"start": 1.0, "end": 0.01}
    return [lambda n: UniformLambda(n, **ends), lambda n: Karras(n, **ends), lambda n: UniformT(n, **ends)]


def base(name: str) -> Method:
    return FlowAdams(2) if name.endswith("_flow") else DPMSolverPP(2, cap=math.inf)


def teacher(name: str) -> Plan:
    method = FlowAdams(3) if name.endswith("_flow") else DPMSolverPP(3)
    return method.plan(problem(name)[0].process, grids(name)[0](60))


def median(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).flatten(1).square().mean(1).sqrt().median())


def sliced(a: Tensor, b: Tensor) -> float:
    """Sliced W2 of two samples, 256 directions."""
    u = torch.randn(256, a[0].numel(), generator=torch.Generator().manual_seed(0), dtype=a.dtype)
    u = u / u.norm(dim=1, keepdim=True)
    return float(((a.flatten(1) @ u.T).sort(0)[0] - (b.flatten(1) @ u.T).sort(0)[0]).square().mean().sqrt())


@functools.cache
def truth(name: str, seed: int, factor: float = 1.0, guidance: float = 1.0) -> Tensor:
    """What the teacher makes of fresh noise."""
    return made(name, teacher(name), seed, factor, guidance)


def made(name: str, plan: Plan, seed: int, factor: float = 1.0, guidance: float = 1.0) -> Tensor:
    model, _, _ = problem(name)
    if guidance != 1:
        model = ClassifierFree(model, guidance, torch.tensor(10))
    x, labels = start(name, 1000 + seed, FRESH[name])
    return sample(model, plan, factor * x, cond=labels, gradient=None)


def judged(name: str, plan: Plan, seed: int) -> dict[str, float]:
    """Plan against teacher, on fresh noise."""
    found, target = made(name, plan, seed), truth(name, seed)
    row = {"median": median(found, target), "sliced": sliced(found, target)}
    if name != "mixture":
        eye = load("embedder0" if name == "faces" else "classifier0")
        row["features"] = median(eye(found), eye(target))
    if name == "digits":
        row["guidance 2"] = median(made(name, plan, seed, 1.0, 2.0), truth(name, seed, 1.0, 2.0))
    if name != "faces":
        row["noise x 1.1"] = median(made(name, plan, seed, 1.1), truth(name, seed, 1.1))
    return row


ON_ALL_SEEDS = ("times, coefficients, labels", "d_ode", "ays")
NOT_ON_FACES = ("times", "coefficients, labels", "bespoke, Euler", "s4s, radius 0.01")  # half a minute each
PRESETS = {  # of learned solvers, with their own numbers of calls
    "bespoke, Euler": lambda name: dict(order=1, steps=STEPS[name]),
    "bespoke, midpoint, 6 calls": lambda name: dict(order=2, steps=STEPS[name]),
    "s4s": lambda name: dict(method=base(name)),
    "s4s, radius 0.01": lambda name: dict(method=base(name), radius=0.01),
}


def published(name: str, seed: int) -> dict[str, dict[str, float]]:
    """Each method at each number of calls, on the best of the grids."""
    process, rows = problem(name)[0].process, {}
    methods: dict[str, Method] = {"2M": DPMSolverPP(2), "DEIS 3": DEIS(3), "UniPC 2": UniPC(2)}
    if name.endswith("_flow"):
        methods["Adams 2"] = FlowAdams(2)
    for label, method in methods.items():
        for calls in CALLS:
            tried = []
            for grid in grids(name):
                plan = method.plan(process, grid(calls))
                if plan.times[-1] == teacher(name).times[-1] and plan.times[0] == teacher(name).times[0]:
                    tried.append(judged(name, plan, seed))
            rows[f"{label}, {calls} calls"] = min(tried, key=lambda row: row["median"])
    return rows


def learned(name: str, kind: str, seed: int) -> dict[str, float]:
    """A plan of 5 calls, learned and judged."""
    model, _, _ = problem(name)
    draws, steps = SIZES[name], STEPS[name]
    if kind in LEARNED and kind != MORE_DRAWS:
        draws, steps = ALL_PARTS.get(name, (draws, steps))
    x, labels = start(name, seed, draws)
    grid: Grid = grids(name)[0](5)
    method = base(name)
    began = time.process_time()
    if kind == "d_ode":
        plan = d_ode(model, grid, x, cond=labels)
    elif kind == "ays":
        if name.endswith("_flow"):
            grid = GivenTimes([0.999, *UniformT(5).times(model.process)[1:-1].tolist(), 1e-3])
        data = sample(model, teacher(name), x, cond=labels, gradient=None)
        nodes = ays(model, grid, data, cond=labels).times(model.process)
        nodes[0], nodes[-1] = (cast(float, teacher(name).times[i]) for i in (0, -1))
        plan = method.plan(model.process, nodes)
    elif kind in PRESETS:
        preset = bespoke if kind.startswith("bespoke") else s4s
        grid = grids(name)[0](3) if "6 calls" in kind else grid
        plan = preset(model, grid, teacher(name), x, cond=labels, progress=False, **PRESETS[kind](name)).plan
    else:
        found = learn_solver(
            model,
            method.plan(model.process, grid),
            teacher(name),
            x,
            learn=LEARNED[kind](method),
            cond=labels,
            steps=steps,
            progress=False,
        )
        plan = found.plan
    spent = time.process_time() - began
    return judged(name, plan, seed) | {"seconds of one core": spent}


def draw(rows: dict[str, dict[str, float]]) -> None:
    figure, axes = plt.subplots(1, len(SIZES), figsize=(4 * len(SIZES), 3.6))
    lines, stars = ("2M", "DEIS 3", "UniPC 2", "Adams 2"), (*LEARNED, "d_ode", "ays", *PRESETS)
    for axis, name in zip(axes, SIZES, strict=True):
        mine = {
            key.split("/")[2]: value["median"] for key, value in rows.items() if key.startswith(f"{name}/0/")
        }
        for k, label in enumerate(lines):
            found = [mine.get(f"{label}, {n} calls", math.nan) for n in CALLS]
            axis.plot(CALLS, found, "o-", color=f"C{k}", label=label, lw=1)
        for k, kind in enumerate(stars):
            colour, calls = plt.get_cmap("tab20")(2 * k + 1), 6 if "6 calls" in kind else 5
            axis.plot([calls], [mine.get(kind, math.nan)], "*", color=colour, mec="black", ms=13, label=kind)
        axis.set(title=name, xlabel="network calls", yscale="log")
    axes[0].set_ylabel("median RMS distance to the teacher")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=7, fontsize=8)
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    figure.savefig(OUT.with_suffix(".png"), dpi=110)


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    facts = json.loads(OUT.read_text()) if OUT.exists() else {}
    rows = facts.get("rows", {})
    for seed in range(max(SEEDS.values())):
        for name in SIZES:
            if seed >= SEEDS[name]:
                continue
            if f"{name}/{seed}/2M, 5 calls" not in rows:
                rows |= {f"{name}/{seed}/{key}": row for key, row in published(name, seed).items()}
            kinds = ON_ALL_SEEDS if seed else (*ON_ALL_SEEDS, *LEARNED, *PRESETS)
            left_out = NOT_ON_FACES if name == "faces" else (MORE_DRAWS,)
            for kind in kinds:
                if f"{name}/{seed}/{kind}" not in rows and kind not in left_out:
                    rows[f"{name}/{seed}/{kind}"] = row = learned(name, kind, seed)
                    print(f"{name:12} {seed} {kind:30} {row}", flush=True)
                facts = {
                    "torch": torch.__version__,
                    "machine": platform.machine(),
                    "threads": 1,
                    "rows": rows,
                }
                OUT.write_text(json.dumps(facts, indent=1) + "\n")
    draw(rows)


if __name__ == "__main__":
    main()
