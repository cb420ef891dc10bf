"""The script that measures pipelines on a GPU runs on what is here, and says what it leaves out."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[3]
SCRIPT = ROOT / "benchmarks" / "pipelines_gpu.py"


def run(*arguments: str) -> str:
    given = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=given, cwd=ROOT).stdout


@pytest.mark.slow
def test_every_part_runs_on_tiny_networks(tmp_path: pathlib.Path):
    run("--tiny", "--steps", "2", "--out", str(tmp_path / "found.json"))
    facts = json.loads((tmp_path / "found.json").read_text())
    assert facts["device"].startswith("CPU") and facts["networks"].keys() == {"SDXL", "Flux"}
    for found in facts["networks"].values():
        assert found["parameters"] > 0 and len(found["rows"]) == 4
        for row in found["rows"].values():
            assert row["2"]["finite"] and row["2"]["seconds"] > 0 and row["2"]["peak_MiB"] >= 0


@pytest.mark.slow
def test_without_a_gpu_it_says_what_it_skipped():
    assert "skipped: SDXL, Flux in bf16: got no CUDA device" in run()


@pytest.mark.slow
def test_the_written_out_sizes_are_those_of_the_models():
    """2.57 and 11.9 thousand million parameters, counted without making them."""
    count = (
        "import sys, torch, diffusers; sys.path.insert(0, 'benchmarks'); import pipelines_gpu as p\n"
        "with torch.device('meta'):\n"
        "    nets = diffusers.UNet2DConditionModel(**p.SDXL), diffusers.FluxTransformer2DModel(**p.FLUX)\n"
        "print([round(sum(w.numel() for w in net.parameters()) / 1e7) for net in nets])"
    )
    command = [sys.executable, "-c", count]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert json.loads(found.splitlines()[-1]) == [257, 1190]
