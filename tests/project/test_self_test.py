"""`python -m pullback` says what is here, and whether gradients are right."""

import importlib.metadata
import subprocess
import sys

import pytest
import torch

from pullback import __main__ as self_test
from pullback import adjoint
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


def test_it_lists_every_strategy(capsys, monkeypatch):
    monkeypatch.setattr(self_test, "devices", list)
    assert self_test.main() == 0
    (line,) = (
        line for line in capsys.readouterr().out.splitlines() if line.startswith("gradient strategies: ")
    )
    named = set(line.removeprefix("gradient strategies: ").split(", "))
    assert {"Auto", "Checkpoint", "Parallel", "SkipStraight", "TorchSDE"} <= named and "Gradient" not in named
    assert all(issubclass(getattr(adjoint, name), adjoint.Gradient) for name in named)


WANTED = ["torch>=2.6", "pullback[faces]; extra == 'all'", "numpy>1; extra == \"some\"", "no-such; extra == 'some'",
          "no.such-either[more]>=1; extra == 'others'", "torch ; extra == 'there'"]  # fmt: skip


def test_it_says_what_an_extra_lacks(capsys, monkeypatch):
    monkeypatch.setattr("importlib.metadata.requires", lambda name: WANTED)
    assert self_test.extras() == {"some": ["no-such"], "others": ["no.such-either"], "there": []}
    monkeypatch.setattr(self_test, "devices", list)
    self_test.main()
    said = capsys.readouterr().out
    assert "pullback[some]: not installed: no-such\n" in said and "pullback[there]: all there\n" in said

    def nowhere(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.requires", nowhere)
    assert self_test.extras() == {}


@pytest.mark.slow
def test_an_import_loads_no_compiler():
    """Which would take two thirds of it."""
    code = "import sys, pullback.guidance; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0


@pytest.mark.slow
def test_as_a_command():
    done = subprocess.run([sys.executable, "-m", "pullback"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_no_fault():
    command = f"{sys.executable} -W ignore -m pullback | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("pullback ") and "Traceback" not in done.stderr
