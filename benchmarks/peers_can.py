"""What each library can do: a table of yes, partly, no, each cell with evidence that is checked against the installed
version.

    python benchmarks/peers_can.py      seconds; writes benchmarks/results/peers_can.json and a table of docs/peers.md

Evidence of a cell: `module:name` is there; `!pattern` stands in no line of the package's code; `no_grad:module:name` is
a function under `torch.no_grad`; `faults:name` is a row of peers_faults.json; `breaks:name` a loop of five steps that
`torch.compile(fullgraph=True)` refuses. A library that is not installed keeps
what the run that had it found. Flow-Factory is on no index: its column is by its README of April 2026.
"""

import functools
import importlib.util
import inspect
import json
import pathlib
import re
import sys
import warnings
from contextlib import nullcontext
from importlib.metadata import version
from typing import Any

import torch
from peers_rows import PEERS, ROWS, table
from torch import Tensor
from torch._dynamo.exc import Unsupported, UserError

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from torchvision_stand_in import WANT_IT, torchvision_stand_in  # noqa: E402

RESULTS, PAGE = ROOT / "benchmarks" / "results" / "peers_can.json", ROOT / "docs" / "peers.md"
FAULTS = ROOT / "benchmarks" / "results" / "peers_faults.json"
MARK = "<!-- written by benchmarks/peers_can.py -->"


@functools.cache
def code(package: str) -> str:
    """All of its Python but its tests."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    root = pathlib.Path(spec.submodule_search_locations[0])
    files = (path for path in sorted(root.rglob("*.py")) if "tests" not in path.parts)
    return "\n".join(path.read_text(errors="replace") for path in files)


def named(where: str) -> Any:
    """`module:name` or `module:name.name`."""
    module, name = where.split(":")
    return functools.reduce(getattr, name.split("."), importlib.import_module(module))


class Decay(torch.nn.Module):
    """dx = -x dt + 0.3 dw."""

    noise_type, sde_type = "diagonal", "ito"

    def f(self, t: Any, x: Tensor) -> Tensor:
        return -x

    def g(self, t: Any, x: Tensor) -> Tensor:
        return 0.3 * torch.ones_like(x)


def breaks(loop: str) -> bool:
    """Whether the library's own five steps are more than one graph."""
    decay, ends = Decay(), torch.tensor([0.0, 1.0])

    def run(x: Tensor) -> Tensor:
        if loop == "ode":
            return named("torchdiffeq:odeint")(decay.f, x, torch.linspace(0, 1, 6), method="euler")[-1]
        if loop == "sde":
            return named("torchsde:sdeint")(decay, x, ends, method="euler", dt=0.2)[-1]
        for t in scheduler.timesteps:
            x = scheduler.step(torch.tanh(x), t, x).prev_sample
        return x

    if loop == "scheduler":
        scheduler = named("diffusers:DDIMScheduler")()
        scheduler.set_timesteps(5)
    try:
        torch.compile(run, fullgraph=True, backend="eager")(torch.ones(2, 3))
    except (Unsupported, UserError):
        return True
    return False


def holds(evidence: str, package: str) -> bool:
    if evidence.startswith("!"):
        return re.search(evidence[1:], code(package)) is None
    if evidence.startswith("breaks:"):
        return breaks(evidence.removeprefix("breaks:"))
    if evidence.startswith("faults:"):
        return evidence.removeprefix("faults:") in json.loads(FAULTS.read_text())
    if evidence.startswith("no_grad:"):
        return "no_grad" in inspect.getsource(named(evidence.removeprefix("no_grad:")))
    try:
        named(evidence)
    except (ImportError, AttributeError):
        return False
    return True


def column(peer: str, before: dict[str, Any]) -> dict[str, Any]:
    """Version and verdicts of a peer, its evidence checked; what was there before where it is not installed."""
    package = PEERS[peer]
    if importlib.util.find_spec(package) is None:
        return before[peer]
    with torchvision_stand_in() if package in WANT_IT else nullcontext():
        for what, row in ROWS.items():
            for evidence in row.cells[peer].evidence:
                assert holds(evidence, package), f"{peer}, {what}: {evidence} does not hold"
    cells = {what: row.cells[peer]._asdict() for what, row in ROWS.items()}
    return {"version": version(peer), "cells": cells}


def main() -> None:
    warnings.simplefilter("ignore")
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found = {peer: column(peer, before) for peer in PEERS}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    if all(
        set(row["cells"]) == set(ROWS) for row in found.values()
    ):  # else a library's run is older than a row
        start, _, end = PAGE.read_text().split(MARK)
        PAGE.write_text(f"{start}{MARK}\n{table(found)}\n{MARK}{end}")


if __name__ == "__main__":
    main()
