"""What a gradient costs on a device, beside the network calls that it must make.

    python benchmarks/gpu.py                          every network, 50 and 1000 steps (an hour on one H200-class GPU)
    python benchmarks/gpu.py --network "DiT 129 M" --steps 50      part of it: rows are added to the same file
    python benchmarks/gpu.py --small                  tiny networks on whatever is there: under a minute on a CPU

Writes benchmarks/results/gpu-<device>.json after every row, and .png at the end. Networks have random weights in
bf16, the state is float32, weights are frozen and the gradient goes to x. A row is one value and gradient:

    over its calls    time / ((calls - VJPs) F + VJPs G); F a call without a graph, G a call and its VJP
    peak              bytes allocated at the most, over those before (CPU: the resident set's high-water mark)
    waits a step      how often the host waits for the device, from the difference of two lengths (CPU: reads by item)
"""

import argparse
import ctypes
import gc
import json
import pathlib
import platform
import re
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from backbones import DiT, UNet
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from pullback.adjoint import Checkpoint, Continuous, Direct, Gradient, Mechanism, Reversible, sample
from pullback.solvers import (
    VP,
    Addressed,
    Denoiser,
    DPMSolverPP,
    Method,
    Plan,
    ReversibleHeun,
    UniformLambda,
    V,
)

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
RESULTS = pathlib.Path(__file__).parent / "results"
WAITS = re.compile(r"cuda(Stream|Device|Event)Synchronize")

Make = Callable[[], nn.Module]
LARGE: dict[str, tuple[Make, tuple[int, ...]]] = {  # name: (network, shape of x)
    "UNet 105 M": (lambda: UNet(160, (1, 2, 4, 4)), (4, 4, 64, 64)),
    "DiT 129 M": (lambda: DiT(768, 12, 64), (4, 4, 64, 64)),
    "UNet 940 M": (lambda: UNet(480, (1, 2, 4, 4)), (4, 4, 64, 64)),
    "DiT 947 M": (lambda: DiT(1280, 32, 64), (4, 4, 64, 64)),
}
SMALL: dict[str, tuple[Make, tuple[int, ...]]] = {
    "UNet 0.2 M": (lambda: UNet(16, (1, 2)), (1, 4, 16, 16)),
    "DiT 0.6 M": (lambda: DiT(128, 2, 16), (1, 4, 16, 16)),
}
STRATEGIES: dict[str, tuple[Gradient, Method]] = {
    "Direct": (Direct(), DPMSolverPP(2)),
    "Checkpoint": (Checkpoint(), DPMSolverPP(2)),
    "Checkpoint, regions": (Checkpoint(mechanism=Mechanism.REGION), DPMSolverPP(2)),
    "Checkpoint, offload": (Checkpoint(offload=True), DPMSolverPP(2)),
    "Reversible": (Reversible(tolerance=1.0), ReversibleHeun()),
    "Continuous": (Continuous(), DPMSolverPP(2)),
}


def synchronise() -> None:
    if CUDA:
        torch.cuda.synchronize()


def seconds(fn: Callable[[], object]) -> float:
    """Time that `fn` takes: the wall clock's on a GPU, this process's own on a CPU that others may share."""
    clock = time.perf_counter if CUDA else time.process_time
    synchronise()
    began = clock()
    fn()
    synchronise()
    return clock() - began


def peak_bytes(fn: Callable[[], object]) -> int:
    """The most memory that `fn` takes at once, over what is taken before it."""
    gc.collect()
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        fn()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed goes back, else it would hide what is taken now
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = _resident("VmRSS")
    fn()
    return max(0, _resident("VmHWM") - before)


def _resident(what: str) -> int:
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{what}:\s+(\d+)", status).group(1))  # type: ignore[union-attr]


class _Reads(TorchDispatchMode):
    """Counts numbers read from tensors: on a CPU nothing waits, and this is what would."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def waits(fn: Callable[[], object]) -> int:
    """How often the host waits for the device in `fn`."""
    if not CUDA:
        with _Reads() as reads:
            fn()
        return reads.count
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        fn()
    return sum(event.count for event in seen.key_averages() if WAITS.fullmatch(event.key))


class Setting:
    """One network on the device and its denoiser."""

    def __init__(self, make: Make, shape: tuple[int, ...]) -> None:
        torch.manual_seed(0)
        network = make().to(DEVICE, torch.bfloat16).eval().requires_grad_(False)
        self.parameters = sum(p.numel() for p in network.parameters())
        self.model = Denoiser(network, VP(), V, dtype=torch.bfloat16)
        self.x = torch.randn(shape).to(DEVICE)
        self.calls()  # kernels are chosen

    def plan(self, method: Method, steps: int) -> Plan:
        return method.plan(self.model.process, UniformLambda(steps, start=0.98, end=0.03))

    def value_and_gradient(self, plan: Plan, strategy: Gradient) -> Tensor:
        x = self.x.clone().requires_grad_()
        out = sample(self.model, plan, x, gradient=strategy)
        return torch.autograd.grad(out.square().sum(), x)[0]

    def calls(self, count: int = 5) -> tuple[float, float]:
        """(F, G): seconds of a call without a graph, and of a call with its VJP; means of `count`."""
        t = torch.full((len(self.x),), 0.5, device=DEVICE)

        def forwards() -> None:
            with torch.no_grad():
                for _ in range(count):
                    self.model(self.x, t)

        def both() -> None:
            for _ in range(count):
                x = self.x.clone().requires_grad_()
                out = self.model(x, t)
                torch.autograd.grad(out, x, torch.ones_like(out))

        return seconds(forwards) / count, seconds(both) / count


def row(setting: Setting, name: str, steps: int) -> dict[str, Any]:
    """One value and gradient; out of memory is a result."""
    strategy, method = STRATEGIES[name]
    plan = setting.plan(method, steps)
    setting.value_and_gradient(setting.plan(method, 3), strategy)  # memory is taken
    try:
        took: list[float] = []
        over: list[float] = []
        f = g = 0.0
        peak = peak_bytes(lambda: setting.value_and_gradient(plan, strategy))
        for _ in range(3 if steps <= 100 else 1):
            before = setting.calls()  # before and after each run: clocks change
            took.append(seconds(lambda: setting.value_and_gradient(plan, strategy)))
            f, g = ((a + b) / 2 for a, b in zip(before, setting.calls(), strict=True))
            calls, vjps = strategy.cost(plan)
            over.append(took[-1] / ((calls - vjps) * f + vjps * g))
    except torch.OutOfMemoryError:
        return {"out_of_memory": True}
    counted = [
        waits(lambda n=n: setting.value_and_gradient(setting.plan(method, n), strategy)) for n in (4, 12)
    ]
    return {
        "seconds": statistics.median(took),
        "over_its_calls": statistics.median(over),
        "call_ms": 1e3 * f,
        "call_and_vjp_ms": 1e3 * g,
        "peak_MiB": peak / 2**20,
        "waits_a_step": (counted[1] - counted[0]) / 8,
        "waits_a_run": counted[0],
    }


def noise_over_randn(x: Tensor) -> float:
    """Time of an addressed draw over that of torch.randn."""
    source = Addressed(2**100)

    def addressed() -> None:
        for slot in range(50):
            source(slot, x)

    def drawn() -> None:
        for _ in range(50):
            torch.randn(x.shape, device=x.device)

    addressed()
    drawn()
    return statistics.median(seconds(addressed) / seconds(drawn) for _ in range(9))


def measured(networks: dict[str, tuple[Make, tuple[int, ...]]], lengths: list[int]) -> pathlib.Path:
    """Measure and write down row by row; rows of other networks and lengths that are there stay."""
    device = torch.cuda.get_device_name() if CUDA else f"CPU {platform.machine()}, 1 thread"
    path = RESULTS / f"gpu-{re.sub('[^a-z0-9]+', '-', device.lower()).strip('-')}.json"
    facts: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"networks": {}}
    facts |= {"device": device, "torch": torch.__version__}
    for name, (make, shape) in networks.items():
        setting = Setting(make, shape)
        rows: dict[str, Any] = facts["networks"].setdefault(name, {"rows": {}})
        rows |= {"parameters": setting.parameters, "x": list(shape)}
        rows["noise_over_randn"] = noise_over_randn(setting.x)
        for steps in lengths:
            for strategy in STRATEGIES:
                found = row(setting, strategy, steps)
                rows["rows"].setdefault(strategy, {})[str(steps)] = found
                path.write_text(json.dumps(facts, indent=1) + "\n")
                print(name, steps, strategy, {k: round(v, 3) for k, v in found.items()}, flush=True)
        del setting
        if CUDA:
            torch.cuda.empty_cache()
    return path


def draw(path: pathlib.Path) -> None:
    """Two panels over the strategies: time over that of the network calls, and peak memory."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogFormatter

    facts = json.loads(path.read_text())
    names, networks = list(STRATEGIES), facts["networks"]
    lengths = sorted({int(n) for net in networks.values() for rows in net["rows"].values() for n in rows})
    plt.rcParams.update({"font.size": 13})
    figure, axes = plt.subplots(1, 2, figsize=(12, 5.2), sharey=True)
    panels = (
        (axes[0], "over_its_calls", "time, over that of the network calls it makes"),
        (axes[1], "peak_MiB", "peak memory, MiB"),
    )
    colours = dict(zip(networks, plt.get_cmap("Dark2").colors, strict=False))  # type: ignore[attr-defined]
    marks = dict(zip(lengths, "osD^", strict=False))
    for axis, key, label in panels:
        for j, (network, net) in enumerate(networks.items()):
            for k, name in enumerate(names):
                for n, found in net["rows"].get(name, {}).items():
                    y = len(names) - 1 - k + 0.16 * ((len(networks) - 1) / 2 - j)
                    if key in found:
                        solid = int(n) == lengths[-1]
                        axis.plot(
                            found[key], y, marks[int(n)], markersize=9, markeredgewidth=2,
                            color=colours[network], markerfacecolor=colours[network] if solid else "white",
                        )  # fmt: skip
        axis.set_xlabel(label)
        axis.grid(axis="y", color="0.92", linewidth=14)
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    axes[0].axvline(1.0, color="0.4", linewidth=1)
    axes[1].set_xscale("log")
    axes[1].xaxis.set_major_formatter("{x:g}")
    axes[1].xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    axes[0].set_yticks(range(len(names)), names[::-1])
    keys = [
        Line2D(
            [],
            [],
            color=c,
            marker="s",
            linestyle="",
            markersize=9,
            label=f"{n}, {_call_ms(networks[n])} a call",
        )
        for n, c in colours.items()
    ]
    keys += [
        Line2D(
            [], [], color="0.3", marker=m, linestyle="", markersize=9, markeredgewidth=2,
            markerfacecolor="0.3" if n == lengths[-1] else "white", label=f"{n} steps",
        )
        for n, m in marks.items()
    ]  # fmt: skip
    figure.suptitle(f"One value and gradient at x, bf16, {facts['device']}", x=0.01, ha="left", fontsize=15)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.legend(handles=keys, loc="lower center", ncols=len(keys), frameon=False)
    figure.savefig(path.with_suffix(".png"), dpi=160)


def _call_ms(network: dict[str, Any]) -> str:
    found = [row["call_ms"] for rows in network["rows"].values() for row in rows.values() if "call_ms" in row]
    return f"{statistics.median(found):.2g} ms"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="tiny networks, 10 and 30 steps")
    parser.add_argument("--network", action="append", choices=[*LARGE, *SMALL])
    parser.add_argument("--steps", action="append", type=int)
    asked = parser.parse_args()
    if not CUDA:
        torch.set_num_threads(1)
    every = SMALL if asked.small else LARGE
    networks = {n: (LARGE | SMALL)[n] for n in asked.network} if asked.network else every
    draw(measured(networks, asked.steps or ([10, 30] if asked.small else [50, 1000])))


if __name__ == "__main__":
    main()
