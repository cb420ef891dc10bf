"""`python -m pullback` says what is here, and whether gradients are right."""

import subprocess
import sys

import pytest
import torch

from pullback import __main__ as self_test
from pullback.adjoint import Direct, JacobianFree


def test_it_passes_where_gradients_are_right(capsys, monkeypatch):
    monkeypatch.setattr(self_test, "devices", lambda: ["cpu"])
    torch.set_default_dtype(torch.float32)
    assert self_test.main() == 0
    said = capsys.readouterr().out
    assert f"torch {torch.__version__}" in said and "diffusers" in said and "WRONG" not in said


def test_it_fails_where_one_is_wrong(capsys, monkeypatch):
    monkeypatch.setattr(self_test, "devices", lambda: ["cpu"])
    monkeypatch.setattr(self_test, "STRATEGIES", {"good": (Direct(), 0.02), "bad": (JacobianFree(), 0.02)})
    assert self_test.main() == 1
    assert capsys.readouterr().out.count("WRONG") == 1


@pytest.mark.slow
def test_as_a_command():
    done = subprocess.run([sys.executable, "-m", "pullback"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
