"""A whole run in one graph: graphs and breaks, agreement with the plain run, compile seconds, own time a network call.

    python benchmarks/compiled.py [--quick]      writes benchmarks/results/compiled.json

Own time: what a run takes besides its network calls, on a (1, 4, 64, 64) float32 state. The network returns a tensor
that it was given, which costs nothing inside a graph; outside the time of calling it is measured apart and subtracted.
`floor` is a plan of one step: what any compiled function costs, its guards among it. The second table is value and
gradient at x (64, 16) of perceptrons: the plain run, the run around a compiled network, and the compiled run, the three
taken by turns. Processor time of one thread, medians. inductor where there is a C++ compiler, else aot_eager.
"""

import argparse
import json
import pathlib
import platform
import shutil
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from pullback.adjoint import Checkpoint, Direct, Gradient, sample
from pullback.solvers import (
    DDIM,
    DDPM,
    DEIS,
    FLOW,
    LMS,
    NOISE,
    VP,
    Addressed,
    Denoiser,
    DPMSolverPP,
    EDMHeun,
    FlowAdams,
    FlowEuler,
    Method,
    Plan,
    RectifiedFlow,
    SASolver,
    SDEDPMSolverPP,
    UniformT,
    UniPC,
)

METHODS: list[Method] = [
    DDIM(), DPMSolverPP(1), DPMSolverPP(2), DPMSolverPP(3), DEIS(3), UniPC(2), EDMHeun(), LMS(4), DDPM(),
    SDEDPMSolverPP(2), SASolver(2, 2), FlowEuler(), FlowAdams(2),
]  # fmt: skip
BACKEND = "inductor" if shutil.which("c++") else "aot_eager"


class Layers(nn.Module):
    """A perceptron of 16 numbers and t: a small network where the loop's own time counts, or a wide one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(17, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 16)
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.body(torch.cat([x, t[:, None]], 1))


def compiled(run: Callable[..., Any]) -> Callable[..., Any]:
    torch._dynamo.reset()
    counters.clear()
    return torch.compile(run, backend=BACKEND, fullgraph=True)


def spent(run: Callable[[], Any]) -> float:
    """Processor time of this thread, in us."""
    began = time.thread_time()
    run()
    return (time.thread_time() - began) * 1e6


def plan_of(method: Method, steps: int) -> Plan:
    process = RectifiedFlow() if "Flow" in str(method) else VP()
    return method.plan(process, UniformT(steps, start=0.98, end=0.02))


def own_time(method: Method, steps: int, turns: int) -> dict[str, float]:
    """Of plain sampling: us a network call outside a graph and inside, graphs, breaks, relative error, seconds."""
    x, fixed = torch.randn(1, 4, 64, 64), torch.randn(1, 4, 64, 64)
    found: dict[str, float] = {}
    for label, count in (("floor", 1), ("run", steps)):
        plan = plan_of(method, count)
        model = Denoiser(lambda x, t: fixed, plan.process, FLOW if "Flow" in str(method) else NOISE)
        noise = torch.randn(plan.slots, *x.shape) if plan.slots else None

        def run(
            model: Denoiser = model, plan: Plan = plan, noise: Tensor | None = noise, x: Tensor = x
        ) -> Tensor:
            return sample(model, plan, x, noise=noise, gradient=None)

        inside = compiled(run)
        began = time.perf_counter()
        out, want = inside(), run()
        seconds, graphs = time.perf_counter() - began, counters["stats"]["unique_graphs"]
        pairs = []
        for _ in range(turns):
            outside = spent(run) - spent(lambda m=model, n=plan.nfe: [m(x, x) for _ in range(n)])
            pairs.append((outside, spent(inside)))
        eager, graph = (statistics.median(side) for side in zip(*pairs, strict=True))
        if label == "floor":
            found["floor_us_a_run"] = graph
            continue
        found |= {
            "graphs": graphs,
            "breaks": sum(counters["graph_break"].values()),
            "error": float((out - want).abs().max() / want.abs().max()),
            "compile_s": seconds,
            "eager_us_a_call": eager / plan.nfe,
            "graph_us_a_call": graph / plan.nfe,
            "ratio": statistics.median(b / a for a, b in pairs),
        }
    return found


def gradients(gradient: Gradient, width: int, steps: int, turns: int) -> dict[str, float]:
    """Of value and gradient at x: ms a run, and the relative difference of the gradients."""
    torch.manual_seed(0)
    x, network = torch.randn(64, 16, requires_grad=True), Layers(width)
    plan = plan_of(DPMSolverPP(2), steps)

    def run(network: Callable[..., Tensor]) -> Callable[[], Tensor]:
        model = Denoiser(network, plan.process, NOISE)
        return lambda: sample(model, plan, x, gradient=gradient).square().sum()

    def both(loss: Callable[[], Tensor]) -> Tensor:
        return torch.autograd.grad(loss(), x)[0]

    whole = compiled(run(network))
    began = time.perf_counter()
    both(whole)
    seconds = time.perf_counter() - began
    ways = {
        "plain": run(network),
        "compiled network": run(torch.compile(network, backend=BACKEND)),
        "one graph": whole,
    }
    want = both(ways["plain"])
    error = max(float((both(way) - want).abs().max() / want.abs().max()) for way in ways.values())
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, way in ways.items():
            times[name].append(spent(lambda way=way: both(way)) / 1e3)
    row = {f"{name}, ms": statistics.median(taken) for name, taken in times.items()}
    return {"compile_s": seconds, "error": error, **row}


def noise_time(turns: int) -> dict[str, float]:
    """Addressed noise inside a graph: us a draw of 16 384 numbers, by itself and in a run, and graphs of 5 seeds."""
    plan, x, fixed = plan_of(DDPM(), 20), torch.randn(1, 4, 64, 64), torch.randn(1, 4, 64, 64)
    model = Denoiser(lambda x, t: fixed, plan.process, NOISE)
    inside = compiled(lambda noise: sample(model, plan, x, noise=noise, gradient=None))
    for seed in range(5):
        inside(Addressed(seed))
    source = Addressed(0)
    alone = statistics.median(spent(lambda: [source(k, x) for k in range(20)]) / 20 for _ in range(turns))
    run = statistics.median(spent(lambda: inside(source)) / plan.slots for _ in range(turns))
    return {"graphs": counters["stats"]["unique_graphs"], "draw_us": alone, "run_us_a_draw": run}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="two methods of four steps, written nowhere")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    steps, turns = (4, 3) if quick else (20, 25)
    facts: dict[str, Any] = {
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "backend": BACKEND,
        "steps": steps,
        "own_time": {},
        "gradient": {},
    }
    for method in METHODS[:2] if quick else METHODS:
        row = facts["own_time"][str(method)] = own_time(method, steps, turns)
        print(
            f"{str(method):58.58s} {row['graphs']:.0f} graph, {row['breaks']:.0f} breaks, error {row['error']:.0e}; "
            f"{row['eager_us_a_call']:5.1f} us a call, in a graph {row['graph_us_a_call']:5.1f} (a run of one step "
            f"{row['floor_us_a_run']:5.0f}); compiled in {row['compile_s']:.1f} s"
        )
    for gradient in (Direct(), Checkpoint()):
        for width in (64,) if quick else (64, 1024):
            name = f"{type(gradient).__name__}, width {width}"
            row = facts["gradient"][name] = gradients(gradient, width, steps, turns)
            print(f"{name:24s}", *(f"{of} {value:.3g};" for of, value in row.items()))
    facts["addressed"] = noise_time(turns)
    print("addressed noise", facts["addressed"])
    if not quick:
        out = pathlib.Path(__file__).parent / "results" / "compiled.json"
        out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
