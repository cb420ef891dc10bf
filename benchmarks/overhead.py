"""Solver overhead per network call on a (1, 4, 64, 64) float32 state, and beside diffusers' schedulers.

    python benchmarks/overhead.py      writes benchmarks/results/overhead.json

The network returns a stored tensor; the time of calling it is measured apart and subtracted, and in the first table
that of drawing noise too. The second is a step of ours over a step of diffusers', noise included, the two taken by
turns in one process at two sizes: medians of 25 turns, processor time of one thread, which others leave alone.
"""

import importlib
import importlib.util
import json
import pathlib
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pullback.adjoint import sample
from pullback.solvers import (
    DATA,
    DDIM,
    DDPM,
    DEIS,
    FLOW,
    LMS,
    NOISE,
    PLMS,
    VP,
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
    Method,
    Plan,
    Prediction,
    RectifiedFlow,
    SASolver,
    SDEDPMSolverPP,
    UniformT,
    UniPC,
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
        began = time.thread_time()
        fn()
        times.append((time.thread_time() - began) * 1e6)
    return statistics.median(times)


def main() -> None:
    torch.set_num_threads(1)
    x, fixed, process = torch.randn(1, 4, 64, 64), torch.randn(1, 4, 64, 64), RectifiedFlow()
    rows = {}
    for method in METHODS:
        plan = method.plan(process, UniformT(50, start=0.98, end=0.02))
        native = FLOW if "Flow" in str(method) else NOISE if isinstance(method, (DEIS, EDMHeun)) else DATA
        noise = GivenNoise(torch.randn(plan.slots, 1, 4, 64, 64)) if plan.slots else None
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
        "over_diffusers": over_diffusers(),
    }
    print(f"addressed noise / torch.randn: {facts['noise_over_randn']:.2f}")
    for name, row in facts["over_diffusers"].items():
        print(f"{name:28s}", *(f"{size} {r['ours_us']:6.0f} / {r['diffusers_us']:6.0f} us = {r['ratio']:.2f};"
                               for size, r in row.items()))  # fmt: skip
    out = pathlib.Path(__file__).parent / "results"
    out.mkdir(exist_ok=True)
    (out / "overhead.json").write_text(json.dumps(facts, indent=1) + "\n")


def pairs() -> dict[str, tuple[Method, Prediction, Any]]:
    """Our method, what the network predicts and diffusers' scheduler, by the method's name."""
    d: Any = importlib.import_module("diffusers")
    return {
        "DDIM": (DDIM(), NOISE, d.DDIMScheduler(clip_sample=False)),
        "DDIM, eta 1": (DDIM(1.0), NOISE, d.DDIMScheduler(clip_sample=False)),
        "DDPM": (DDPM(), NOISE, d.DDPMScheduler(clip_sample=False)),
        "Euler ancestral": (DDIM(1.0), NOISE, d.EulerAncestralDiscreteScheduler()),
        "DPM-Solver++ 2M": (DPMSolverPP(2), NOISE, d.DPMSolverMultistepScheduler()),
        "DPM-Solver++ 3M": (DPMSolverPP(3), NOISE, d.DPMSolverMultistepScheduler(solver_order=3)),
        "SDE-DPM-Solver++ 2M": (
            SDEDPMSolverPP(2), NOISE, d.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")),
        "DEIS 3": (DEIS(3), NOISE, d.DEISMultistepScheduler(solver_order=3)),
        "UniPC 2": (UniPC(2), NOISE, d.UniPCMultistepScheduler()),
        "SA-Solver": (SASolver(2, 2), NOISE, d.SASolverScheduler()),
        "LMS 4": (LMS(4), NOISE, d.LMSDiscreteScheduler()),
        "Heun": (EDMHeun(), NOISE, d.HeunDiscreteScheduler()),
        "PLMS": (PLMS(4), NOISE, d.PNDMScheduler(skip_prk_steps=True)),
        "flow Euler": (FlowEuler(), FLOW, d.FlowMatchEulerDiscreteScheduler()),
    }  # fmt: skip


def over_diffusers(turns: int = 25, steps: int = 50) -> dict[str, dict[str, dict[str, float]]]:
    """Microseconds a network call of ours and of diffusers', and their ratio, at two sizes."""
    if importlib.util.find_spec("diffusers") is None:
        return {}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, (method, prediction, scheduler) in pairs().items():
        for shape in ((1, 4, 64, 64), (1, 16, 128, 128)):
            x, fixed = torch.randn(shape), torch.randn(shape)
            process = RectifiedFlow() if prediction is FLOW else VP()
            plan = method.plan(process, UniformT(steps, start=0.98, end=0.02))
            model = Denoiser(lambda x, t, out=fixed: out, process, prediction)

            def ours(model: Denoiser = model, plan: Plan = plan, x: Tensor = x) -> float:
                began = time.thread_time()
                sample(model, plan, x, noise=Addressed(0) if plan.slots else None, gradient=None)
                middle = time.thread_time()
                for _ in range(plan.nfe):
                    model(x, x)
                return (2 * middle - began - time.thread_time()) * 1e6 / plan.nfe

            eta = 1.0 if name == "DDIM, eta 1" else 0.0  # diffusers takes it in the step

            def theirs(
                scheduler: Any = scheduler, x: Tensor = x, out: Tensor = fixed, eta: float = eta
            ) -> float:
                scheduler.set_timesteps(steps)
                state, more = x, {"eta": eta} if eta else {}
                began = time.thread_time()
                for t in scheduler.timesteps:
                    if hasattr(scheduler, "scale_model_input"):
                        scheduler.scale_model_input(state, t)  # what the network would be shown
                    state = scheduler.step(out, t, state, **more).prev_sample
                return (time.thread_time() - began) * 1e6 / len(scheduler.timesteps)

            _ = ours(), theirs()  # the first turn is a warm-up
            both = [(ours(), theirs()) for _ in range(turns)]
            found.setdefault(name, {})["x".join(map(str, shape))] = {
                "ours_us": statistics.median(a for a, _ in both),
                "diffusers_us": statistics.median(b for _, b in both),
                "ratio": statistics.median(a / b for a, b in both),
            }
    return found


if __name__ == "__main__":
    main()
