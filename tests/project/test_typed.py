"""A program of a user's, against the wheel as installed: the type checkers find nothing in it, and it runs."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import pytest
from packed import build, copied

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "typed" / "sample_project.py"
STRICT = {"include": [PROGRAM.name], "typeCheckingMode": "strict", "pythonVersion": "3.11"}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
    """A folder with the program and an environment, env, that has the wheel and what this one has."""
    place = tmp_path_factory.mktemp("user")
    shutil.copy(PROGRAM, place)
    (place / "pyrightconfig.json").write_text(json.dumps(STRICT))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place / "env"], check=True)
    (site,) = (place / "env").glob("lib/python*/site-packages")
    with zipfile.ZipFile(build(copied(tmp_path_factory.mktemp("tree")), "wheel", place)) as wheel:
        wheel.extractall(site)
    (site / "beside.pth").write_text(sysconfig.get_path("purelib"))
    return place


def clean(place: pathlib.Path, *command: object) -> str:
    """What the command prints, in the program's folder, without the checkout on the path; it must succeed."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=place, capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_pyright_strict_finds_nothing(place):
    python = place / "env" / "bin" / "python"
    assert "0 errors, 0 warnings" in clean(
        place, sys.executable, "-m", "pyright", "-p", place, "--pythonpath", python
    )


@pytest.mark.slow
def test_mypy_strict_finds_nothing(place):
    python = place / "env" / "bin" / "python"
    said = clean(place, sys.executable, "-m", "mypy", "--strict", "--python-executable", python, PROGRAM.name)
    assert "no issues found in 1 source file" in said


@pytest.mark.slow
def test_it_runs(place):
    where = clean(place, "env/bin/python", "-c", "import pullback; print(pullback.__file__)")
    assert str(place) in where  # the wheel, not the checkout
    clean(place, "env/bin/python", PROGRAM.name)
