"""Tests against the installed package: some of each room, run by this interpreter from a folder without the checkout.

    python tests/support/installed.py --out row.json [tests/solvers/test_laws.py ...]

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
ROOMS = (  # need no more than pullback[ode] and what tests themselves import
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
SHOWN = ("torch", "numpy", "torchdiffeq", "torchsde", "safetensors", "tqdm", "scipy")


class Outcomes:
    """Counts what becomes of the tests."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
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
    parser.add_argument("files", nargs="*", default=[f"tests/{room}" for room in ROOMS])
    parser.add_argument("--out", type=pathlib.Path)
    given = parser.parse_args()
    out, began = given.out and given.out.absolute(), time.perf_counter()
    outcomes = Outcomes()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(
            ROOT / "tests", f"{folder}/tests", ignore=shutil.ignore_patterns("typings", "__pycache__")
        )
        shutil.copy(ROOT / "pyproject.toml", folder)
        os.chdir(folder)
        arguments = [
            "-q",
            "-p",
            "no:cacheprovider",
            "-m",
            "not slow and not gpu",
            "--installed",
            *given.files,
        ]
        code = pytest.main(arguments, plugins=[outcomes])
        os.chdir(ROOT)
    row = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{name: version(name) for name in ("pullback", *SHOWN)},
        "files": len(given.files),
        **{name: outcomes.count[name] for name in ("passed", "failed", "error", "skipped")},
        "seconds": round(time.perf_counter() - began),
    }
    print(json.dumps(row))
    if out:
        out.write_text(json.dumps(row, indent=1) + "\n")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
