"""How time and peak memory of a value and its gradient grow with steps, batch, parameters and the size of the state.

    python benchmarks/growth.py              writes benchmarks/results/growth.json and .png
    python benchmarks/growth.py --ranks      1, 2 and 4 processes over the batch anew, the rest as it is in the JSON

One axis moves, the others stay at BASE. A point is a process of its own with one thread, forked before anything was
allocated, for what one run leaves of the heap would be in the next: its processor's seconds, the median of three where
a run takes less than 0.3; then, in one more run in which blocks of 8 KiB and more go back as they are freed, the
resident set's high-water mark over what was there before. Slopes are of log y against log x over the upper half of a
line: 1 is in proportion, 0 does not grow. The network is three convolutions, so that 10,000 steps can be run; its
weights get gradients too. Processes share the batch over gloo and sum the weights' gradients: seconds there are of the
clock.
"""

import argparse
import json
import math
import multiprocessing
import pathlib
import statistics
import sys
import tempfile
import time
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from measuring import machine, peak_bytes, versions
from torch import Tensor, nn

from pullback.adjoint import Checkpoint, Continuous, Direct, Gradient, Reversible, States, sample
from pullback.solvers import VP, Denoiser, DPMSolverPP, Method, ReversibleHeun, UniformLambda, V

PATH = pathlib.Path(__file__).parent / "results" / "growth.json"
STRATEGIES: dict[str, tuple[Gradient, Method]] = {
    "Direct": (Direct(), DPMSolverPP(2)),
    "Checkpoint": (Checkpoint(), DPMSolverPP(2)),
    "Checkpoint(recursive)": (Checkpoint(recursive=True), DPMSolverPP(2)),
    "Reversible": (Reversible(tolerance=1.0), ReversibleHeun()),
    "Continuous, re-solved": (Continuous(states=States.RESOLVED), DPMSolverPP(2)),
}
BASE = {"steps": 50, "batch": 1, "width": 16, "side": 16}
AXES: dict[str, tuple[int, ...]] = {
    "steps": (10, 100, 1000, 10_000),
    "batch": (1, 4, 16, 64),
    "width": (16, 32, 64, 128),  # of the network: its parameters
    "side": (8, 16, 32, 64, 128),  # of the state: 4 side^2 numbers a sample
}
MOST = {"Direct": {"steps": 1000}}  # it keeps 100 KiB a step
BLOCK = 2**13  # bytes: an activation goes back at once, a state of 4 KiB stays on the heap
LEAST = {"seconds": 1e-6, "peak_MiB": 0.05}  # of what is drawn: a peak may be 0
RANKS, SHARED = (1, 2, 4), {"steps": 20, "batch": 64, "width": 64, "side": 16}


class Convolutions(nn.Module):
    """4 channels in and out, two layers of `width` between, the time added to the first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter, self.middle = nn.Conv2d(4, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.leave, self.time = nn.Conv2d(width, 4, 3, padding=1), nn.Linear(1, width)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = torch.tanh(self.enter(x) + self.time(t[:, None])[:, :, None, None])
        return self.leave(torch.tanh(self.middle(h)))


class Run:
    """A value and gradient at x and all weights; `samples` of the batch, all of them by default."""

    def __init__(self, strategy: str, at: dict[str, int], samples: slice = slice(None)) -> None:
        torch.manual_seed(0)
        self.network, (self.strategy, method) = Convolutions(at["width"]), STRATEGIES[strategy]
        self.x = torch.randn(at["batch"], 4, at["side"], at["side"])[samples]
        self.model = Denoiser(self.network, VP(), V)
        self.plan = method.plan(VP(), UniformLambda(at["steps"], start=1.0, end=0.03))

    def __call__(self) -> list[Tensor]:
        x = self.x.clone().requires_grad_()
        out = sample(self.model, self.plan, x, gradient=self.strategy)
        return list(torch.autograd.grad(out.square().sum(), [x, *self.network.parameters()]))

    def seconds(self) -> float:
        began = time.process_time()
        self()
        return time.process_time() - began


def point(strategy: str, at: dict[str, int]) -> dict[str, float]:
    """Seconds and peak, in this process."""
    torch.set_num_threads(1)
    for _ in range(20):  # until the allocators have settled
        Run(strategy, {**at, "steps": 2})()
    run = Run(strategy, at)
    taken = [run.seconds()]
    taken += [run.seconds() for _ in range(2)] if taken[0] < 0.3 else []
    peak = peak_bytes(run, BLOCK)
    weights = sum(w.numel() for w in run.network.parameters())
    seconds = statistics.median(taken)
    return {"seconds": seconds, "peak_MiB": peak / 2**20, "parameters": weights, "state": run.x[0].numel()}


def line(strategy: str, axis: str, values: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """A strategy along an axis; this process must not have made a gradient, whose threads no fork takes along."""
    most = MOST.get(strategy, {}).get(axis, math.inf)
    found = {}
    for value in values:
        if value <= most:
            with multiprocessing.get_context("fork").Pool(1) as pool:
                found[str(value)] = pool.apply(point, (strategy, {**BASE, axis: value}))
    return found


def slope(points: dict[str, dict[str, float]], axis: str, key: str) -> float:
    """Least squares of log y on log x over the upper half of the points."""
    upper = list(points.items())[len(points) // 2 :]
    xs = [math.log(abscissa(axis, int(name), row)) for name, row in upper]
    ys = [math.log(max(row[key], LEAST[key])) for _, row in upper]
    x0, y0 = statistics.mean(xs), statistics.mean(ys)
    return sum((x - x0) * (y - y0) for x, y in zip(xs, ys, strict=True)) / sum((x - x0) ** 2 for x in xs)


def abscissa(axis: str, value: int, row: dict[str, float]) -> float:
    """What an axis is drawn over: parameters and numbers of a state rather than widths and sides."""
    return row[named] if (named := {"width": "parameters", "side": "state"}.get(axis)) else value


def worker(rank: int, world: int, place: str, turns: int) -> None:
    """The share of one process: its samples, then the sum of the weights' gradients over all."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}/store", rank=rank, world_size=world)
    share = SHARED["batch"] // world
    run, taken, flat = Run("Checkpoint", SHARED, slice(rank * share, (rank + 1) * share)), [], torch.zeros(1)
    for _ in range(turns + 1):
        dist.barrier()
        began = time.perf_counter()
        _, *weights = run()
        flat = torch.cat([g.flatten() for g in weights])
        dist.all_reduce(flat)
        dist.barrier()
        taken.append(time.perf_counter() - began)
    if rank == 0:
        pathlib.Path(place, "found").write_text(json.dumps([float(flat.norm()), *taken[1:]]))
    dist.destroy_process_group()


def ranks(turns: int) -> dict[str, Any]:
    """Seconds of the clock with 1, 2 and 4 processes, and those of one process alone with such a share."""
    rows = {}
    for world in RANKS:
        with tempfile.TemporaryDirectory() as place:
            mp.spawn(worker, (world, place, turns), nprocs=world)  # pyright: ignore[reportPrivateImportUsage]
            norm, *taken = json.loads(pathlib.Path(place, "found").read_text())
        torch.set_num_threads(1)
        alone = Run("Checkpoint", SHARED, slice(0, SHARED["batch"] // world))
        rows[str(world)] = {
            "seconds": statistics.median(taken), "share_alone": statistics.median(alone.seconds() for _ in range(3)),
            "norm": norm,
        }  # fmt: skip
    for row in rows.values():
        row["speedup"] = rows["1"]["seconds"] / row["seconds"]
        row["off"] = abs(row["norm"] / rows["1"]["norm"] - 1)
        print({name: round(value, 6) for name, value in row.items()}, flush=True)
    cores = machine()["cores"]
    print(
        f"{cores} cores: more than {cores} processes share them and cannot be faster; the law is T(1) / processes"
    )
    return {"at": SHARED, "turns": turns, "rows": rows}


def draw(axes: dict[str, Any], path: pathlib.Path) -> None:
    """Time above, peak below, an axis a column."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = {
        "steps": "steps N",
        "batch": "batch",
        "width": "parameters",
        "side": "numbers of a sample's state",
    }
    figure, rows = plt.subplots(2, len(axes), figsize=(17, 8))
    for column, (axis, lines) in enumerate(axes.items()):
        for plot, key, label in zip(
            rows[:, column], ("seconds", "peak_MiB"), ("seconds", "peak, MiB"), strict=True
        ):
            for (name, points), marker in zip(lines.items(), "osv^D", strict=True):
                xs = [abscissa(axis, int(value), row) for value, row in points.items()]
                ys = [max(row[key], LEAST[key]) for row in points.values()]
                plot.loglog(xs, ys, marker=marker, ms=4, label=f"{name}: {slope(points, axis, key):.2f}")
            plot.set(xlabel=names[axis], ylabel=label)
            plot.set_ylim(top=8 * plot.get_ylim()[1])  # room for the legend
            plot.spines[["top", "right"]].set_visible(False)
            plot.legend(frameon=False, fontsize=8, title="slope", title_fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", action="store_true", help="only the processes over the batch")
    parser.add_argument("--quick", action="store_true", help="two points a line, two turns; give --out too")
    parser.add_argument("--out", type=pathlib.Path, default=PATH)
    given = parser.parse_args()
    values = {axis: each[:2] if given.quick else each for axis, each in AXES.items()}
    facts: dict[str, Any] = (
        json.loads(given.out.read_text()) if given.ranks else {"base": BASE, "block": BLOCK, "axes": {}}
    )
    facts |= {"machine": machine(), "versions": versions("torch", "pullback")}
    began = time.perf_counter()
    for axis in () if given.ranks else AXES:
        for name in STRATEGIES:
            points = line(name, axis, values[axis])
            facts["axes"].setdefault(axis, {})[name] = points
            slopes = {key: round(slope(points, axis, key), 3) for key in ("seconds", "peak_MiB")}
            facts.setdefault("slopes", {}).setdefault(axis, {})[name] = slopes
            print(axis, name, slopes, f"{time.perf_counter() - began:.0f} s", flush=True)
    facts["ranks"] = ranks(2 if given.quick else 7)
    given.out.write_text(json.dumps(facts, indent=1) + "\n")
    draw(facts["axes"], given.out.with_suffix(".png"))


if __name__ == "__main__":
    sys.exit(main())
