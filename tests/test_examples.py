"""Every example runs from its command line and ends in a picture and a number."""

import json
import pathlib
import runpy
import sys

import pytest
import torch

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
SMALL = {
    "face_morph": ["--steps", "2"],
    "sample": [],
    "gradients": ["--steps", "6"],
    "digit_guidance": ["--steps", "2"],
    "lookahead": ["--count", "2", "--steps", "20"],
    "restore_faces": ["--faces", "1", "--seeds", "1", "--steps", "3", "--copies", "1"],
}
SHARED = {"networks", "data", "train", "bundled", "common"}  # imported by the examples; train writes the weights


def test_every_example_is_run():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SMALL) | SHARED


@pytest.mark.parametrize("name", SMALL)
def test_example(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--out", str(tmp_path), "--device", "cpu", *SMALL[name]])
    monkeypatch.syspath_prepend(str(EXAMPLES))
    torch.set_default_dtype(torch.float32)  # examples run as a user runs them; the suite's fixture restores float64
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    assert json.loads((tmp_path / f"{name}.json").read_text())
    assert f"{name}.png" in capsys.readouterr().out
