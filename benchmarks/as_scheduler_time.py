"""What a turn of a pipeline's loop costs in its scheduler: `as_scheduler(method, scheduler)` by diffusers' own, in
turns within one process, the network left out; and `set_timesteps` by itself. In time of this thread's own: on a
machine that others use, time on the wall put the ratio of single rounds of Heun anywhere from 0.2 to 5.4.

    python -m benchmarks.as_scheduler_time     writes results/as_scheduler_time.json and the table in docs/diffusers.md
"""

import json
import pathlib
import statistics
import time
from typing import Any

import torch

from pullback.solvers import DDIM, DPMSolverPP, EDMHeun, UniPC, as_scheduler

ROOT = pathlib.Path(__file__).parents[1]
PAGE, MARK = ROOT / "docs" / "diffusers.md", "<!-- written by benchmarks/as_scheduler_time.py -->"
OUT = pathlib.Path(__file__).parent / "results" / "as_scheduler_time.json"
STEPS, REPEATS = 20, 41
SIZES = {"(1, 4, 64, 64)": (1, 4, 64, 64), "(1, 16, 128, 128)": (1, 16, 128, 128)}
PAIRS: dict[str, tuple[Any, str]] = {
    "DDIM()": (DDIM(), "DDIM"),
    "DPMSolverPP(2)": (DPMSolverPP(2), "DPMSolverMultistep"),
    "UniPC(2)": (UniPC(2), "UniPCMultistep"),
    "EDMHeun()": (EDMHeun(), "HeunDiscrete"),
}


def made(kind: str) -> Any:
    import diffusers

    return getattr(diffusers, f"{kind}Scheduler")(beta_schedule="scaled_linear")


def looped(scheduler: Any, shape: tuple[int, ...]) -> tuple[float, float]:
    """Microseconds of `set_timesteps`, and of a turn."""
    x, answer = (torch.randn(*shape, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    began = time.thread_time()
    scheduler.set_timesteps(STEPS)
    ready = time.thread_time()
    for t in scheduler.timesteps:
        scheduler.scale_model_input(x, t)
        x = scheduler.step(answer, t, x, return_dict=False)[0]
    return 1e6 * (ready - began), 1e6 * (time.thread_time() - ready) / len(scheduler.timesteps)


def measured(method: Any, kind: str, shape: tuple[int, ...]) -> dict[str, float]:
    ours, theirs = as_scheduler(method, made(kind)), made(kind)
    with torch.no_grad():
        for each in (ours, theirs):  # warm
            looped(each, shape)
        rounds = [(looped(ours, shape), looped(theirs, shape)) for _ in range(REPEATS)]
    ratios = sorted(a[1] / b[1] for a, b in rounds)
    return {
        "ours_us": statistics.median(a[1] for a, _ in rounds),
        "theirs_us": statistics.median(b[1] for _, b in rounds),
        "ratio": statistics.median(ratios),
        "low": ratios[REPEATS // 10],
        "high": ratios[-1 - REPEATS // 10],
        "ours_best_us": min(a[1] for a, _ in rounds),
        "theirs_best_us": min(b[1] for _, b in rounds),
        "set_ours_us": statistics.median(a[0] for a, _ in rounds),
        "set_theirs_us": statistics.median(b[0] for _, b in rounds),
    }


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    lines = [
        "| in the place of | latents | a turn, us: ours, theirs | ratio | `set_timesteps`, ms |",
        "|---|---|---|---|---|",
    ]
    for name, sizes in found.items():
        for size, each in sizes.items():
            lines.append(
                f"| `{name}` for {PAIRS[name][1]} | {size} | {each['ours_us']:.0f}, {each['theirs_us']:.0f} | "
                f"{each['ratio']:.2f} ({each['low']:.2f} to {each['high']:.2f}) | "
                f"{each['set_ours_us'] / 1e3:.1f}, {each['set_theirs_us'] / 1e3:.1f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    result = {
        name: {size: measured(method, kind, shape) for size, shape in SIZES.items()}
        for name, (method, kind) in PAIRS.items()
    }
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    page = PAGE.read_text().split(MARK)
    print(table(result))
    if len(page) == 3:
        PAGE.write_text(f"{page[0]}{MARK}\n{table(result)}\n{MARK}{page[2]}")
