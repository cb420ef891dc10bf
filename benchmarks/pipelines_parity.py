"""Every tiny pipeline of tests/support/pipelines: how far from_diffusers is from the pipeline's own loop.

    python benchmarks/pipelines_parity.py      writes benchmarks/results/pipelines_parity.json, and the table of
                                               docs/pipelines.md from it

Differences are relative to the largest number, of the latents and of gradients in the start and in all that the
pipeline is conditioned on. Networks have random weights; gradients are of the sum of squares of the latents.
"""

import importlib.metadata
import json
import pathlib
import platform
import sys
import warnings
from dataclasses import dataclass
from typing import Any

import torch

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from pipelines.case import PipelineCase, built, single  # noqa: E402
from pipelines.parity import CASES, NOT_COMPARED, REFUSED, differences, with_scheduler  # noqa: E402

PAGE = ROOT / "docs" / "pipelines.md"
MARK = "<!-- written by benchmarks/pipelines_parity.py -->"


@dataclass(frozen=True)
class Row:
    """One family: differences by scheduler, (value, gradient), or why there are none."""

    case: PipelineCase
    found: dict[str, Any]


def compared(case: PipelineCase, pipe: Any, scheduler: str) -> Any:
    """The differences with the scheduler that is in the pipeline."""
    for known in (REFUSED, NOT_COMPARED):
        for name in ("", scheduler):
            if (case.name, name) in known:
                return known[case.name, name]
    found = differences(case, pipe)
    return found.value, found.gradient


def row(case: PipelineCase) -> Row:
    """The family with its own scheduler, with the others, and in float64."""
    pipe = built(case)
    own = type(pipe.scheduler).__name__
    found: dict[str, Any] = {
        "pipeline": type(pipe).__name__,
        "scheduler": own,
        "float32": compared(case, pipe, own),
    }
    found["others"] = {}
    for k, make in enumerate(case.schedulers):
        with with_scheduler(pipe, make) as name:
            found["others"][f"{name} {k}"] = compared(case, pipe, name)
    with single():
        wide = case.build().to(torch.float64)
    try:
        found["float64"] = compared(case, wide, own)
    except RuntimeError as error:  # of parts that compute in float32 whatever they are given
        found["float64"] = f"not in float64: {str(error).splitlines()[0]}"
    return Row(case, found)


def shown(value: Any) -> str:
    return value if isinstance(value, str) else f"{value[0]:.0e} / {value[1]:.0e}"


def plain(scheduler: str) -> str:
    return scheduler.removesuffix("Scheduler")


def table(rows: list[Row]) -> str:
    """The page's table."""
    lines = [
        "| case | pipeline | its scheduler | float32 | worst of the others | float64 |",
        "|---|---|---|---|---|---|",
    ]
    for each in rows:
        f = each.found
        others = f["others"].items()
        numbers = [v for _, v in others if not isinstance(v, str)]
        worst = shown((max(v for v, _ in numbers), max(g for _, g in numbers))) if numbers else "-"
        refused = [
            f"; {plain(k.split()[0])}: {v}" for k, v in others if isinstance(v, str) and v != f["float32"]
        ]
        told = f"{len(numbers)}: {worst}{''.join(refused)}" if numbers else "-"
        cells = (each.case.name, f["pipeline"].removesuffix("Pipeline"), plain(f["scheduler"]))
        lines.append(f"| {' | '.join((*cells, shown(f['float32']), told, shown(f['float64'])))} |")
    return "\n".join(lines)


def main() -> None:
    warnings.filterwarnings("ignore")
    rows = [row(case) for case in CASES]
    out = ROOT / "benchmarks" / "results" / "pipelines_parity.json"
    versions = {
        "torch": torch.__version__,
        "diffusers": importlib.metadata.version("diffusers"),
        "machine": platform.machine(),
    }
    out.write_text(
        json.dumps({"versions": versions, "rows": {r.case.name: r.found for r in rows}}, indent=1) + "\n"
    )
    before, _, after = PAGE.read_text().split(MARK)
    PAGE.write_text(f"{before}{MARK}\n{table(rows)}\n{MARK}{after}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
