"""The arrow solvers <- adjoint <- guidance, packaging, sizes, and habits."""

import ast
import inspect
import pathlib
import statistics
import tomllib

import pytest
from pullback import adjoint, guidance, solvers

ROOT = pathlib.Path(__file__).parents[1]
LAYERS = ("solvers", "adjoint", "guidance")
FILES = [path for layer in LAYERS for path in sorted((ROOT / layer).glob("**/*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_imports_follow_the_arrow(path):
    own = LAYERS.index(path.relative_to(ROOT).parts[0])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 2:
            target = (node.module or "").split(".")[0]
            assert LAYERS.index(target) < own, f"{path.name} imports {target}"
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert (node.module or "").split(".")[0] not in (*LAYERS, "pullback"), f"{path.name}: use a relative import"
        elif isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & {*LAYERS, "pullback"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_no_no_grad_decorator_and_no_global_random_draw(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert not any("no_grad" in ast.unparse(d) for d in node.decorator_list), node.name
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.randn", "torch.rand", "torch.randint"):
            assert "generator" in {k.arg for k in node.keywords}, ast.unparse(node)


def test_files_are_small():
    lengths = {path.name: len(path.read_text().splitlines()) for path in FILES}
    assert max(lengths.values()) <= 400 and statistics.median(lengths.values()) < 120


def test_every_folder_is_packaged():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {"pullback." + ".".join(p.parent.relative_to(ROOT).parts) for p in FILES if p.name == "__init__.py"}
    assert found == set(project["packages"]) == set(project["package-dir"])
    assert all((ROOT / layer / "py.typed").exists() for layer in LAYERS)


@pytest.mark.parametrize("layer", [solvers, adjoint, guidance], ids=lambda m: m.__name__)
def test_public_names_exist_and_are_documented(layer):
    for name in layer.__all__:
        thing = getattr(layer, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            doc = inspect.getdoc(thing) or ""
            assert doc and not doc.startswith(f"{name}("), f"{name} has no docstring of its own"
