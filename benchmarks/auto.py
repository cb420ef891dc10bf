"""What Auto chooses against the best choice by hand, and its predictions against what is measured, on random cases.

    python benchmarks/auto.py [--cases 50]      writes benchmarks/results/auto.json and auto.png

A case is a network, a plan and a memory limit, drawn at random. By hand: each strategy without a budget, and
`Checkpoint(memory_budget=...)` at shares of the limit; of those whose measured peak keeps the limit, the fastest. Times
are the processor's, medians of rounds in which all candidates take turns; peaks are bytes of live tensors, counted op
by op. Where nothing fits by hand, `Auto` must refuse.
"""

import argparse
import json
import pathlib
import platform
import random
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pullback.adjoint import Checkpoint, Direct, Gradient, plan_gradient, sample
from pullback.adjoint.choosing.peak import Peak
from pullback.solvers import (
    BDIA,
    DDIM,
    DDPM,
    VP,
    Addressed,
    Denoiser,
    DPMSolverPP,
    EDMHeun,
    Method,
    Plan,
    ReversibleHeun,
    UniformLambda,
    UniPC,
    V,
)

HERE = pathlib.Path(__file__).parent
METHODS: list[Method] = [
    DDIM(), DPMSolverPP(2), DPMSolverPP(3), UniPC(2), EDMHeun(), DDPM(), ReversibleHeun(), BDIA(),
]  # fmt: skip
ROUNDS = 5


class Perceptron(nn.Module):
    """Of x and t."""

    def __init__(self, features: int, width: int, depth: int) -> None:
        super().__init__()
        sizes = [features + 1, *[width] * depth]
        layers = [
            part for a, b in zip(sizes, sizes[1:], strict=False) for part in (nn.Linear(a, b), nn.Tanh())
        ]
        self.body = nn.Sequential(*layers, nn.Linear(width, features))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.body(torch.cat([x, t[:, None]], 1))


def network(draw: random.Random) -> tuple[str, nn.Module, Tensor]:
    """One of two kinds, of a size that takes 0.3 to 10 ms a call."""
    from pullback.zoo import UNet

    if draw.random() < 0.5:
        features, width, depth = (
            draw.choice([8, 32, 128]),
            draw.choice([64, 256, 512]),
            draw.choice([2, 3, 5]),
        )
        batch = draw.choice([4, 32, 128])
        name = f"perceptron {features}-{width}x{depth}, batch {batch}"
        return name, Perceptron(features, width, depth), torch.randn(batch, features)
    size, width, batch = draw.choice([8, 16]), draw.choice([8, 16]), draw.choice([1, 4])
    return (
        f"UNet {size}, width {width}, batch {batch}",
        UNet(size, width, (1, 2)),
        torch.randn(batch, 1, size, size),
    )


class Case:
    """A network, a plan and a limit."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed)
        torch.manual_seed(seed)
        self.name, net, x = network(draw)
        if draw.random() < 0.4:
            net.requires_grad_(False)
            self.name += ", frozen"
        self.model, self.x = Denoiser(net, VP(), V), x.requires_grad_()
        method, steps = draw.choice(METHODS), draw.choice([6, 10, 20, 30])
        self.plan: Plan = method.plan(VP(), UniformLambda(steps, start=0.99, end=0.03))
        self.noise = Addressed(0) if self.plan.slots else None
        self.share = draw.choice([0.02, 0.1, 0.3, 0.6, 1.2])

    def once(self, strategy: Gradient) -> None:
        out = sample(self.model, self.plan, self.x, noise=self.noise, gradient=strategy)
        out.sum().backward()
        for value in (self.x, *self.model.parameters()):
            value.grad = None

    def peak(self, strategy: Gradient) -> int:
        with Peak(self.x.device) as ledger:
            self.once(strategy)
        return ledger.bytes

    def run(self) -> dict[str, object]:
        began = time.process_time()
        free = plan_gradient(self.model, self.plan, self.x, noise=self.noise)
        measuring = time.process_time() - began
        hand: list[Gradient] = [each.strategy for each in free.forecasts if not each.why_not]
        peaks = {strategy: self.peak(strategy) for strategy in hand}
        least = min(peaks.values())
        # above the least that anything takes, by a share of what Direct takes more
        memory = int(1.12 * least + self.share * (peaks[Direct()] - least))
        for share in (1.0, 0.8, 0.6):
            strategy = Checkpoint(memory_budget=int(share * memory), recursive=True)
            try:
                peaks[strategy] = self.peak(strategy)
            except ValueError:  # the least budget is more
                continue
        fitting = [strategy for strategy, peak in peaks.items() if peak <= memory]
        table = plan_gradient(self.model, self.plan, self.x, noise=self.noise, memory=memory)
        chosen = table.best
        if chosen.strategy not in peaks:
            peaks[chosen.strategy] = self.peak(chosen.strategy)
        candidates = list(dict.fromkeys([*fitting, chosen.strategy]))
        times = self.times([lambda s=s: self.once(s) for s in candidates])
        best = min(times[: len(fitting)])
        took = times[candidates.index(chosen.strategy)]
        return {
            "network": self.name,
            "plan": self.plan.name,
            "steps": self.plan.steps,
            "limit_bytes": memory,
            "chosen": str(chosen.strategy),
            "best_by_hand": str(candidates[times.index(best)]),
            "slower_than_best": took / best,
            "chosen_seconds": took,
            "predicted_seconds": chosen.seconds,
            "peak_bytes": peaks[chosen.strategy],
            "predicted_peak_over_measured": {
                str(each.strategy): each.memory / peaks[each.strategy]
                for each in (*free.forecasts, chosen)
                if each.memory is not None and each.strategy in peaks
            },
            "within_limit": peaks[chosen.strategy] <= memory,
            "measuring_seconds": measuring,
        }

    def times(self, actions: list[Callable[[], None]]) -> list[float]:
        """Medians of the processor's seconds, the actions in turns."""
        found: list[list[float]] = [[] for _ in actions]
        for _ in range(ROUNDS):
            for action, times in zip(actions, found, strict=True):
                began = time.process_time()
                action()
                times.append(time.process_time() - began)
        return [statistics.median(times) for times in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results" / "auto.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for seed in range(given.cases):
        rows.append(row := Case(seed).run())
        print(seed, row["network"], row["plan"], row["chosen"], f"{row['slower_than_best']:.3f}", flush=True)
    slower = [float(str(row["slower_than_best"])) for row in rows]
    ratios = [value for row in rows for value in row["predicted_peak_over_measured"].values()]  # type: ignore
    facts = {
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "cases": len(rows),
        "over_5_percent_slower": sum(value > 1.05 for value in slower),
        "slowest": max(slower),
        "median": statistics.median(slower),
        "predictions": len(ratios),
        "peaks_within_10_percent": sum(abs(value - 1) < 0.1 for value in ratios) / len(ratios),
        "peak_ratios": [min(ratios), statistics.median(ratios), max(ratios)],
        "above_the_limit": sum(not row["within_limit"] for row in rows),
    }
    print(json.dumps(facts, indent=1))
    given.out.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
    figure(slower, ratios, given.out.with_suffix(".png"))


def figure(slower: list[float], ratios: list[float], path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawing, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2))
    left.plot(range(1, len(slower) + 1), sorted(slower), "o", markersize=4)
    left.axhline(1.05, color="grey", linewidth=0.8, linestyle="--")
    left.set(xlabel="case, sorted", ylabel="time over the best by hand")
    right.hist(ratios, bins=30)
    for edge in (0.9, 1.1):
        right.axvline(edge, color="grey", linewidth=0.8, linestyle="--")
    right.set(xlabel="predicted peak over the measured one", ylabel="strategies")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    drawing.tight_layout()
    drawing.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
