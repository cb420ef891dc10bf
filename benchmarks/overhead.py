"""Solver overhead per network call on a (1, 4, 64, 64) float32 state, and addressed noise against torch.randn.

    python benchmarks/overhead.py      writes benchmarks/results/overhead.json

The network returns a stored tensor; the time of calling it and of drawing noise is measured apart and
subtracted. Medians over repeats. diffusers' schedulers are timed in the same run when diffusers is installed.
"""

import json
import pathlib
import platform
import statistics
import time
from collections.abc import Callable

import torch

from pullback.adjoint import sample
from pullback.solvers import (
    DATA,
    DDIM,
    DDPM,
    DEIS,
    FLOW,
    NOISE,
    Addressed,
    Denoiser,
    DPMSolverPP,
    DPMSolverPPSingle,
    EDMHeun,
    FlowAdams,
    FlowEuler,
    FlowHeun,
    FlowMidpoint,
    GivenNoise,
    RectifiedFlow,
    UniformT,
)

METHODS = [
    DDIM(),
    DDIM(1.0),
    DDPM(),
    DPMSolverPP(2),
    DPMSolverPP(3),
    DPMSolverPPSingle(2),
    DPMSolverPPSingle(3),
    DEIS(3),
    DEIS(4),
    FlowEuler(),
    FlowMidpoint(),
    FlowHeun(),
    FlowAdams(2),
    FlowAdams(4),
    EDMHeun(),
]


def median_us(fn: Callable[[], object], repeats: int = 15) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        fn()
        times.append((time.perf_counter() - began) * 1e6)
    return statistics.median(times)


def main() -> None:
    torch.set_num_threads(1)
    x, fixed, process = torch.randn(1, 4, 64, 64), torch.randn(1, 4, 64, 64), RectifiedFlow()
    rows = {}
    for method in METHODS:
        plan = method.plan(process, UniformT(50, start=0.98, end=0.02))
        native = FLOW if "Flow" in str(method) else NOISE if isinstance(method, (DEIS, EDMHeun)) else DATA
        noise = GivenNoise(torch.randn(max(plan.slots, 1), 1, 4, 64, 64))
        result = {}
        for label, prediction in (("native", native), ("converted", NOISE if native is DATA else DATA)):
            model = Denoiser(lambda x, t: fixed, process, prediction)
            total = median_us(lambda m=model: sample(m, plan, x, noise=noise, gradient=None))  # noqa: B023
            calls = median_us(lambda m=model: [m(x, x) for _ in range(plan.nfe)])  # noqa: B023
            result[label] = (total - calls) / plan.nfe
        rows[str(method)] = result
        print(f"{str(method):60s} {result['native']:6.1f} us, converted {result['converted']:6.1f}")
    source = Addressed(2**100)
    ratios = [
        median_us(lambda: [source(k, x) for k in range(50)], 5)
        / median_us(lambda: [torch.randn(1, 4, 64, 64) for _ in range(50)], 5)
        for _ in range(9)
    ]
    facts = {
        "us_per_call": rows,
        "noise_over_randn": statistics.median(ratios),
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "diffusers_us_per_step": diffusers_rows(x, fixed),
    }
    print(
        f"addressed noise / torch.randn: {facts['noise_over_randn']:.2f};  diffusers: "
        f"{facts['diffusers_us_per_step']}"
    )
    out = pathlib.Path(__file__).parent / "results"
    out.mkdir(exist_ok=True)
    (out / "overhead.json").write_text(json.dumps(facts, indent=1) + "\n")


def diffusers_rows(x: torch.Tensor, fixed: torch.Tensor) -> dict[str, float]:
    try:
        import diffusers  # pyright: ignore[reportMissingImports]
    except ImportError:
        return {}
    rows = {}
    for name in (
        "DDIMScheduler",
        "DPMSolverMultistepScheduler",
        "DEISMultistepScheduler",
        "FlowMatchEulerDiscreteScheduler",
    ):

        def run(name: str = name) -> float:
            scheduler = getattr(diffusers, name)()
            scheduler.set_timesteps(50)
            began = time.perf_counter()
            state = x
            for t in scheduler.timesteps:
                state = scheduler.step(fixed, t, state).prev_sample
            return (time.perf_counter() - began) * 1e6 / 50

        rows[name] = statistics.median(run() for _ in range(9))
    return rows


if __name__ == "__main__":
    main()
