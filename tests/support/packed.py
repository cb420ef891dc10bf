"""The wheel and the sdist of the tree as it stands, built in a copy."""

import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
LAYERS = ("solvers", "adjoint", "guidance")
CACHES = shutil.ignore_patterns("__pycache__", "typings")
FILES = (
    "pyproject.toml",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
)
FILES += ("SECURITY.md", "constraints.txt")


def copied(tree: pathlib.Path) -> pathlib.Path:
    """What a package is built from, in `tree`."""
    tree.mkdir(exist_ok=True)
    for name in FILES:
        shutil.copy(ROOT / name, tree)
    for name in (*LAYERS, "tests"):
        shutil.copytree(ROOT / name, tree / name, ignore=CACHES)
    links = shutil.ignore_patterns("__pycache__", *LAYERS)  # that a checkout may have beside the package
    shutil.copytree(ROOT / "pullback", tree / "pullback", ignore=links)
    return tree


def build(tree: pathlib.Path, kind: str, out: pathlib.Path) -> pathlib.Path:
    """`kind` is "wheel" or "sdist"; by the backend itself, which asks for nothing from outside."""
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(out)!r}))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=tree, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return out / done.stdout.strip().splitlines()[-1]
