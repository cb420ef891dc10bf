"""Every configuration of tests/support/scheduler_cases.py: how far its plan is from diffusers' own loop, and how long a
step of either takes.

    python benchmarks/diffusers_parity.py      writes benchmarks/results/diffusers_parity.json, and the table of
                                               docs/diffusers.md from it

Errors are relative to the largest value, of the sample and of its gradient in the start and in a parameter. Times are
of the loop alone on a (1, 4, 64, 64) float32 state with given noise: the network returns a stored tensor; the best of
nine runs of either, taken in turns.
"""

import contextlib
import json
import pathlib
import platform
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from scheduler_cases import Case, cases, errors, own_loop  # noqa: E402

from pullback.solvers import GivenNoise, plan_from_scheduler, run  # noqa: E402

PAGE = ROOT / "docs" / "diffusers.md"
MARK = "<!-- written by benchmarks/diffusers_parity.py -->"


def times(case: Case) -> dict[str, float]:
    """Microseconds a turn of the loop, of the plan and of diffusers."""
    x = torch.randn(1, case.channels, 64, 64, generator=torch.Generator().manual_seed(0))
    draws = torch.randn(4 * max(case.steps, 12), *x.shape, generator=torch.Generator().manual_seed(1))
    number = {"num_inference_steps": case.steps} if case.steps else {}
    found = plan_from_scheduler(case.scheduler(), **number, **case.given, **case.options)
    start = found.start(x)
    answer = torch.rand(
        1, x.shape[1] * (1 + case.learned), 64, 64, generator=torch.Generator().manual_seed(2)
    )

    def network(x: Tensor, t: Tensor) -> Tensor:
        return answer

    denoiser, noise = (
        found.denoiser(network),
        GivenNoise(torch.cat([draws] * (start.shape[1] // x.shape[1]), 2)),
    )

    def ours() -> float:
        began = time.perf_counter()
        run(denoiser, found.plan, start, noise=noise)
        return time.perf_counter() - began

    def theirs() -> float:
        scheduler = case.ready()
        began = time.perf_counter()
        own_loop(case, network, x, draws, patch, scheduler)
        return time.perf_counter() - began

    best: dict[Callable[[], float], float] = {ours: 1e9, theirs: 1e9}
    with torch.no_grad(), patched() as patch:
        for _ in range(9):
            for each in best:
                best[each] = min(best[each], each())
    turns = found.plan.steps
    return {"ours_us": best[ours] * 1e6 / turns, "theirs_us": best[theirs] * 1e6 / turns}


@contextlib.contextmanager
def patched() -> Any:
    patch = pytest.MonkeyPatch()
    yield patch
    patch.undo()


def table(rows: list[dict[str, Any]]) -> str:
    """One line a class: its configurations, and their largest errors."""
    lines = [
        "| scheduler | configurations | float64, without its casts | as it ships | float32 | its own float32 error | "
        "ours | time a step |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in sorted({row["kind"] for row in rows}):
        own = [row for row in rows if row["kind"] == kind]
        cells = [
            " / ".join(f"{max(row[name][part] for row in own):.0e}" for part in (0, 1))
            for name in ("exact", "shipped", "single", "theirs", "ours")
        ]
        ratio = sorted(row["ours_us"] / row["theirs_us"] for row in own)[len(own) // 2]
        lines.append(f"| {kind} | {len(own)} | {' | '.join(cells)} | {ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = []
    for case in cases():
        with patched() as patch:
            measured = errors(case, patch)
        rows.append({"kind": case.kind, "case": str(case), **asdict(measured), **times(case)})
        print(
            f"{max(measured.exact):.0e} {max(measured.shipped):.0e} {rows[-1]['ours_us']:6.0f} us  {case}",
            flush=True,
        )
    facts = {"torch": torch.__version__, "machine": platform.machine(), "configurations": rows}
    (ROOT / "benchmarks" / "results" / "diffusers_parity.json").write_text(json.dumps(facts, indent=1) + "\n")
    before, _, after = PAGE.read_text().split(MARK)
    PAGE.write_text(f"{before}{MARK}\n{table(rows)}\n{MARK}{after}")


if __name__ == "__main__":
    main()
