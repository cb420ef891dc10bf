"""Tests against the installed package: some of each room, run by this interpreter from a folder without the checkout.

    python tests/support/installed.py --out row.json [tests/solvers/test_laws.py ...]
    python tests/support/installed.py --out row.json --whole --workers 2  # every fast test of the three rooms

The row that it writes has the interpreter, the versions, and how many passed and failed. `tests/support/matrix.py`
calls it in environments of several interpreters and torch versions.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import sys
import tempfile
import time
from collections import Counter

import pytest

ROOT = pathlib.Path(__file__).parents[2]
EXTRAS = "ode,rewards,train,deepinv"  # of pullback, for ROOMS
BESIDE = ("pytest", "pytest-xdist", "hypothesis", "beartype", "mpmath")
ALONE = ("deepinv",)  # with --no-deps: its torchvision would break a CPU torch
ROOMS = (  # need no more than these, which .ci/release names too
    "project/test_self_test.py",
    "solvers/test_laws.py",
    "solvers/test_conversion.py",
    "solvers/test_noise.py",
    "solvers/test_reversible.py",
    "solvers/test_networks.py",
    "adjoint/test_gradient.py",
    "adjoint/test_generated.py",
    "adjoint/test_compile.py",
    "adjoint/test_handing_back.py",
    "adjoint/test_func.py",
    "adjoint/bridges/test_bridges.py",
    "adjoint/continuous/test_closed_forms.py",
    "adjoint/density/test_dequantise.py",
    "adjoint/multilevel/test_pilot.py",
    "adjoint/parallel/test_rows_apart.py",
    "adjoint/second_order/test_singular.py",
    "guidance/adversarial/test_stepping.py",
    "guidance/edit/test_rf_inversion.py",
    "guidance/guides/test_guide.py",
    "guidance/latents/test_optimise.py",
    "guidance/learning/test_presets.py",
    "guidance/measurements/test_operators.py",
    "guidance/morphs/test_blends.py",
    "guidance/objectives/test_objective_strategies.py",
    "guidance/particles/test_particle_gradients.py",
    "guidance/recognition/test_calibration.py",
    "guidance/rewards/test_rewards.py",
    "guidance/train/test_checkpoints.py",
)
WHOLE = ("tests/solvers", "tests/adjoint", "tests/guidance")  # these need pullback[examples,diffusers] too
READ = ("examples", "benchmarks", "docs")  # what tests read of a checkout; none of it is the library
SHOWN = ("torch", "numpy", "torchdiffeq", "torchsde", "safetensors", "tqdm", "scipy")


class Outcomes:
    """Counts what becomes of the tests."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.files: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.files.add(report.nodeid.partition("::")[0])
        if report.when == "call" or report.outcome != "passed":
            self.count[report.outcome if report.when == "call" or report.skipped else "error"] += 1

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.count["error"] += report.failed


def version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--whole", action="store_true", help="every fast test of the three rooms")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path)
    given = parser.parse_args()
    kind = "given files" if given.files else "the three rooms" if given.whole else "files of each room"
    files = given.files or (list(WHOLE) if given.whole else [f"tests/{room}" for room in ROOMS])
    out, began = given.out and given.out.absolute(), time.perf_counter()
    outcomes = Outcomes()
    with tempfile.TemporaryDirectory() as folder:
        for name in ("tests", *READ):
            if (ROOT / name).exists():  # an sdist has the tests alone
                caches = shutil.ignore_patterns("typings", "__pycache__")
                shutil.copytree(ROOT / name, f"{folder}/{name}", ignore=caches)
        shutil.copy(ROOT / "pyproject.toml", folder)
        os.chdir(folder)
        arguments = [
            "-q",
            "-p",
            "no:cacheprovider",
            "-m",
            "not slow and not gpu",
            "--installed",
            *(["-n", str(given.workers)] if given.workers else []),
            *files,
        ]
        code = pytest.main(arguments, plugins=[outcomes])
        os.chdir(ROOT)
    row = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{name: version(name) for name in ("pullback", *SHOWN)},
        "tests": kind,
        "files": len(outcomes.files),
        **{name: outcomes.count[name] for name in ("passed", "failed", "error", "skipped")},
        "seconds": round(time.perf_counter() - began),
    }
    print(json.dumps(row))
    if out:
        out.write_text(json.dumps(row, indent=1) + "\n")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
