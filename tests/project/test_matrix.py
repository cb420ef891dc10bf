"""What was measured of a Python and a torch stays in the table until the same is measured again."""

import ast
import importlib.metadata
import json
import pathlib
import platform
import re
import subprocess
import sys
import tomllib
from typing import Any

import installed
import matrix
import pytest

ROOT = pathlib.Path(__file__).parents[2]
Rows = list[dict[str, Any]]
PYTHON = platform.python_version()


def counted(
    python: str = "3.11.7", torch: str = "2.13.0+cpu", passed: int = 9, **more: str
) -> dict[str, Any]:
    return {"python": python, "machine": "x86_64", "torch": torch, "tests": "rooms", "passed": passed} | more


def without(python: str, torch: str, what: str = "not tried") -> dict[str, Any]:
    return {"python": python, "torch": torch, what: "said"}


@pytest.mark.parametrize(
    ("before", "new", "after"),
    [
        # the same tests of the same pair again, whatever build of torch is named
        ([counted(passed=8), counted("3.12.1")], [counted()], [counted("3.12.1"), counted()]),
        # another patch of Python, machine, torch or choice of tests is another row
        ([counted()], [counted("3.11.9")], [counted(), counted("3.11.9")]),
        ([counted()], [counted(machine="aarch64")], [counted(), counted(machine="aarch64")]),
        ([counted()], [counted(torch="2.8.0")], [counted(), counted(torch="2.8.0")]),
        ([counted()], [counted(tests="all")], [counted(), counted(tests="all")]),
        # with a note it was entered by hand
        ([counted(note="by hand")], [counted()], [counted(note="by hand"), counted()]),
        # what was not tried, or did not install, is news only where nothing is known
        ([counted()], [without("3.11.7", "2.13.0")], [counted()]),
        ([counted()], [without("3.11", "2.13.0")], [counted()]),
        ([counted("3.1.7")], [without("3.11", "2.13.0")], [counted("3.1.7"), without("3.11", "2.13.0")]),
        ([without("3.11", "2.13.0")], [counted()], [counted()]),
        ([without("3.11", "2.13.0"), without("3.13", "2.8.0")], [without("3.11.7", "2.13.0")],
         [without("3.13", "2.8.0"), without("3.11.7", "2.13.0")]),
        ([without("3.11.7", "2.13.0", "failed to install")], [without("3.11.7", "2.13.0")],
         [without("3.11.7", "2.13.0", "failed to install")]),
        ([counted()], [without("3.11.7", "2.13.0", "failed to install")],
         [counted(), without("3.11.7", "2.13.0", "failed to install")]),
        ([counted(), without("3.11.7", "2.13.0", "failed to install")], [counted(passed=10)], [counted(passed=10)]),
    ],
)  # fmt: skip
def test_rows_of_two_runs(before, new, after):
    assert matrix.merged(before, new) == after
    assert matrix.merged(after, []) == after


def run(monkeypatch, table: pathlib.Path, *arguments: str) -> int:
    """`matrix.py` with these, and no package built."""
    monkeypatch.setattr(matrix, "copied", lambda tree: tree)
    monkeypatch.setattr(matrix, "build", lambda tree, kind, out: out / "pullback.whl")
    monkeypatch.setattr(sys, "argv", ["matrix.py", "--out", str(table), *arguments])
    return matrix.main()


def test_a_run_keeps_the_rows_of_others(monkeypatch, tmp_path):
    """And each pair is written down when it is done: what comes later may be broken off."""
    table = tmp_path / "matrix.json"
    old: Rows = [counted(note="by hand"), counted("3.12.1", passed=1), counted("3.13.0")]
    table.write_text(json.dumps(old))
    seen: list[Rows] = []

    def measured(python: str, torch: str, *_: object) -> dict[str, Any]:
        seen.append(json.loads(table.read_text()))
        return counted(python, torch)

    monkeypatch.setattr(matrix, "row", measured)
    assert run(monkeypatch, table, "--pythons", "3.12.1", "--torches", "2.13.0+cpu", "2.8.0") == 0
    first = [old[0], old[2], counted("3.12.1")]
    assert seen == [old, first]
    assert json.loads(table.read_text()) == [*first, counted("3.12.1", "2.8.0")]


def test_a_row_names_no_place_of_this_machine(monkeypatch, tmp_path):
    table = tmp_path / "matrix.json"
    monkeypatch.setattr(matrix, "megabytes", lambda *_: 900.0)
    say = matrix.say  # but for the environment, which takes seconds
    done = subprocess.CompletedProcess[str]([], 0, "", "")
    monkeypatch.setattr(matrix, "say", lambda command: done if "venv" in command else say(command))
    nowhere = "/some/where/bin/python3.9"
    assert run(monkeypatch, table, "--pythons", nowhere, sys.executable, "--torches", "2.8.0") == 0
    assert json.loads(table.read_text()) == [
        {"python": "3.9", "torch": "2.8.0", "not tried": "no such interpreter here"},
        {"python": PYTHON, "torch": "2.8.0", "not tried": "its wheel is 900 MB, over 400"},
    ]
    said = "WARNING: one\nERROR: no file 'file:///opt/a b', https://some.host/simple/torch/ or /tmp/x/y.whl for a/b\n"
    assert matrix.complaint(said) == "ERROR: no file '... b', ... or ... for a/b"
    assert matrix.complaint("") == ""


def test_each_python_that_the_package_names_was_tried():
    """With some torch that is allowed."""
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    rows = json.loads(matrix.RESULT.read_text())
    tried = {tuple(row["python"].split(".")[:2]) for row in rows if row.get("passed")}
    wanted = {tuple(found[1].split(".")) for each in named if (found := re.search(r":: (3\.\d+)$", each))}
    assert wanted and wanted <= tried


def imported(path: pathlib.Path) -> set[str]:
    """Packages that the file imports, by name too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found |= {each.value for each in node.args[:1] if isinstance(each, ast.Constant)}
    return {str(name).partition(".")[0] for name in found}


def test_a_fresh_environment_has_what_the_files_of_each_room_import():
    """Not all of it comes with the wheel: deepinv was missing, and every release stopped at the test that takes it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *installed.BESIDE, *installed.ALONE]
    for extra in installed.EXTRAS.split(","):
        wanted += project["optional-dependencies"][extra]
    there = {re.split(r"[^\w-]", name)[0].lower() for name in wanted}
    owners = importlib.metadata.packages_distributions()
    needed = set().union(*(imported(ROOT / "tests" / room) for room in installed.ROOMS)) - {"pullback"}
    assert {"deepinv", "torch", "pytest"} <= needed
    assert not {
        name for name in needed & owners.keys() if not there & {each.lower() for each in owners[name]}
    }


def test_a_release_is_tried_with_the_same():
    lines = (ROOT / ".ci" / "release").read_text().replace("\\\n", " ").splitlines()
    installs = " ".join(line for line in lines if line.startswith("out/installed/bin/python -m pip install"))
    assert f"[{installed.EXTRAS}]" in installs and "--no-deps " + " ".join(installed.ALONE) in installs
    assert set(installed.BESIDE) <= set(installs.split())


def test_a_release_without_an_environment_says_so(tmp_path):
    """Before anything is built."""
    (tmp_path / ".ci").mkdir()
    script = tmp_path / ".ci" / "release"
    script.write_text((ROOT / ".ci" / "release").read_text())
    done = subprocess.run(
        ["bash", str(script)], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert done.returncode == 1 and "got no .venv/bin/python, expected an environment there" in done.stderr
