"""The house: which folder may import which, no cycles, packaging, sizes, one meaning a name, and habits."""

import ast
import inspect
import pathlib
import statistics
import tomllib
from collections import Counter
from collections.abc import Iterator

import pytest
from laws_of import HOUSE, LAWS

import pullback
from pullback import adjoint, guidance, solvers

ROOT = pathlib.Path(__file__).parents[2]
LAYERS = ("solvers", "adjoint", "guidance")
FILES = [path for layer in LAYERS for path in sorted((ROOT / layer).glob("**/*.py"))]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES
}

# folder: what it may import besides itself. A layer's root stands for the files that lie in it.
ARROWS: dict[str, set[str]] = {
    "solvers": set(),
    "solvers.endpoint": {"solvers"},
    "solvers.methods": {"solvers"},
    "solvers.methods.adaptive": {"solvers", "solvers.methods"},
    "solvers.methods.around": {"solvers", "solvers.methods"},
    "solvers.methods.calibrated": {"solvers", "solvers.methods"},
    "solvers.methods.reversible": {"solvers", "solvers.methods", "solvers.methods.around"},
    "solvers.networks": {"solvers"},
    "solvers.neural": {"solvers"},
    "solvers.phase_space": {"solvers", "solvers.methods"},
    "solvers.pipelines": {"solvers", "solvers.schedulers"},
    "solvers.readings": {"solvers"},
    "solvers.schedulers": {"solvers", "solvers.methods", "solvers.methods.around"},
    "solvers.toy": {"solvers"},
    "adjoint.replay": {"solvers*"},
    "adjoint.strategies": {"solvers*", "adjoint.replay"},
    "adjoint.choosing": {"solvers*", "adjoint.replay", "adjoint.strategies"},
    "adjoint": {"solvers*", "adjoint.replay", "adjoint.strategies", "adjoint.choosing"},
    "adjoint.continuous": {"solvers*", "adjoint.replay", "adjoint.strategies"},
    "adjoint.parallel": {"solvers*", "adjoint.replay", "adjoint.strategies"},
    "adjoint.density": {"solvers*", "adjoint", "adjoint.replay", "adjoint.strategies", "adjoint.choosing"},
    "adjoint.multilevel": {"solvers*", "adjoint", "adjoint.strategies", "adjoint.choosing"},
    "adjoint.second_order": {
        "solvers*",
        "adjoint",
        "adjoint.replay",
        "adjoint.strategies",
        "adjoint.choosing",
    },
    "adjoint.bridges": {"solvers*", "adjoint.replay", "adjoint.strategies", "adjoint.continuous"},
    "guidance": set(),
    "guidance.measurements": {"solvers*", "adjoint*"},
    "guidance.rewards": {"solvers*", "adjoint*"},
    "guidance.recognition": {"solvers*", "adjoint*", "guidance.rewards"},
    "guidance.latents": {"solvers*", "adjoint*", "guidance"},
    "guidance.learning": {"solvers*", "adjoint*", "guidance", "guidance.latents"},
    "guidance.edit": {"solvers*", "adjoint*", "guidance"},
    "guidance.guides": {"solvers*", "adjoint*", "guidance", "guidance.measurements"},
    "guidance.particles": {"solvers*", "adjoint*", "guidance.guides", "guidance.rewards"},
    "guidance.adversarial": {"solvers*", "adjoint*", "guidance", "guidance.guides"},
    "guidance.objectives": {"solvers*", "adjoint*", "guidance.rewards"},
    "guidance.morphs": {
        "solvers*",
        "adjoint*",
        "guidance",
        "guidance.edit",
        "guidance.guides",
        "guidance.latents",
        "guidance.particles",
        "guidance.recognition",
    },
    "guidance.train": {"solvers*", "adjoint*", "guidance.objectives", "guidance.rewards"},
}


def imports(name: str) -> Iterator[tuple[str, str]]:
    """(module, imported name) of every import between the library's files: lazy and type-checking ones too."""
    path = MODULES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            for alias in node.names:
                yield ".".join([*base, *([node.module] if node.module else [])]), alias.name


def target(module: str, name: str) -> str:
    """The file that an import reaches: a name of a package is followed to where it is defined."""
    if f"{module}.{name}" in MODULES:
        return f"{module}.{name}"
    if MODULES[module].name == "__init__.py":
        for inner, found in imports(module):
            if found == name or found == "*" and name in vars(importable(inner)):
                return target(inner, name)
    return module


def importable(module: str) -> object:
    """The module itself."""
    return __import__(f"pullback.{module}", fromlist=["_"])


GRAPH = {name: {target(*found) for found in imports(name)} - {name} for name in MODULES}
CODE = [name for name in MODULES if MODULES[name].name != "__init__.py"]


def folder(name: str) -> str:
    return name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]


def test_the_table_of_arrows_names_every_folder():
    assert {folder(name) for name in MODULES} == set(ARROWS)


@pytest.mark.parametrize("name", CODE)
def test_imports_follow_the_arrows(name):
    allowed = {folder(name), *ARROWS[folder(name)]}
    for reached in GRAPH[name]:
        at = folder(reached)
        assert at in allowed or f"{at.split('.')[0]}*" in allowed, f"{name} imports {reached}"


@pytest.mark.parametrize("name", CODE)
def test_imports_inside_the_library_are_relative(name):
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        bare = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        bare += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert not {found.split(".")[0] for found in bare} & {*LAYERS, "pullback"}, f"{name}: {bare}"


def test_no_cycle_between_files():
    """Files are peeled off that import nothing which is left, or that nothing left imports: cycles remain."""
    left = {name: {reached for reached in GRAPH[name] if reached in CODE} for name in CODE}
    while True:
        used = set().union(*left.values())
        free = [name for name, reached in left.items() if not reached & left.keys() or name not in used]
        if not free:
            break
        for name in free:
            del left[name]
        left = {name: reached & left.keys() for name, reached in left.items()}
    assert not left, f"on a cycle or between two: {sorted(left)}"


def public_definitions() -> Iterator[tuple[str, str]]:
    """(name, module) of every class, function and alias that is not private."""
    for module in CODE:
        for node in ast.parse(MODULES[module].read_text()).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                yield node.name, module
            elif isinstance(node, ast.Assign):
                yield from ((each.id, module) for each in node.targets if isinstance(each, ast.Name))


def test_no_name_has_two_meanings():
    found = [name for name, _ in public_definitions() if not name.startswith("_")]
    twice = {
        name: [m for n, m in public_definitions() if n == name] for name, n in Counter(found).items() if n > 1
    }
    assert not twice


@pytest.mark.parametrize("name", [name for name in MODULES if MODULES[name].name == "__init__.py"])
def test_no_function_hides_its_module(name):
    package = importable(name)
    for inner in MODULES:
        if inner.rpartition(".")[0] == name:
            assert inspect.ismodule(getattr(package, inner.rpartition(".")[2], None)), inner


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_no_no_grad_decorator_and_no_global_random_draw(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert not any("no_grad" in ast.unparse(d) for d in node.decorator_list), node.name
        if isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "torch.randn",
            "torch.rand",
            "torch.randint",
        ):
            assert "generator" in {k.arg for k in node.keywords}, ast.unparse(node)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_compares_by_value_cannot_be_changed(path):
    """A dataclass is frozen, or compares by identity; a counter does nothing but count."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ClassDef):
            continue
        made = [ast.unparse(each) for each in node.decorator_list]
        for each in (text for text in made if text.startswith("dataclass")):
            assert "frozen=True" in each or "eq=False" in each or node.name == "Counter", node.name


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_is_never_written_to_is_frozen(path):
    """A dataclass that compares by identity is open to writing only where it writes to itself, or stands alone and a
    file of its folder writes to it.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        made = [ast.unparse(each) for each in getattr(node, "decorator_list", [])]
        if any(text.startswith("dataclass") and "frozen=True" not in text for text in made):
            assert isinstance(node, ast.ClassDef)
            fields = {ast.unparse(each.target) for each in node.body if isinstance(each, ast.AnnAssign)}
            near = [_written(ast.parse(each.read_text()), "self") for each in path.parent.glob("*.py")]
            assert _written(node) or not node.bases and fields & set().union(*near), node.name


def _written(tree: ast.AST, but: str = "") -> set[str]:
    """The attributes that are assigned to, but for those of the name `but`."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and ast.unparse(node.value) != but
    }


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_promise_is_abstract(path):
    """A method of words alone that is to return something is for others to write: without the mark, a class that
    forgets it would return None.
    """
    classes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    for node in classes:
        for each in node.body:
            if (
                not isinstance(each, ast.FunctionDef)
                or ast.unparse(each.returns or ast.Constant(None)) == "None"
            ):
                continue
            words = all(
                isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) for line in each.body
            )
            marks = {ast.unparse(mark) for mark in each.decorator_list}
            assert not words or marks & {"abstractmethod", "overload"}, f"{node.name}.{each.name}"


def test_the_laws_of_mutants_are_there():
    """A law that does not exist would count as one that killed every mutant."""
    assert all((ROOT / "tests" / law).is_file() for tests in LAWS.values() for law in tests)
    assert all(any(file.relative_to(ROOT).as_posix().startswith(start) for file in FILES) for start in LAWS)
    assert set(HOUSE) <= globals().keys()


def test_files_are_small():
    lengths = {path.name: len(path.read_text().splitlines()) for path in FILES}
    assert max(lengths.values()) <= 350 and statistics.median(lengths.values()) < 110
    wide = [len(line) > 110 for path in FILES for line in path.read_text().splitlines()]
    assert sum(wide) <= 0.05 * len(wide)


def test_every_folder_says_what_it_knows():
    for path in FILES:
        if path.name == "__init__.py":
            doc = ast.get_docstring(ast.parse(path.read_text())) or ""
            assert len(doc) > 40 and ("Knows" in doc or "knows" in doc or path.parent.name == "guidance"), (
                path
            )


def test_every_folder_is_packaged():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        "pullback." + ".".join(p.parent.relative_to(ROOT).parts) for p in FILES if p.name == "__init__.py"
    }
    assert found | {"pullback", "pullback.zoo"} == set(project["packages"]) == set(project["package-dir"])
    assert all((ROOT / layer / "py.typed").exists() for layer in ("pullback", *LAYERS))


@pytest.mark.parametrize("layer", [solvers, adjoint, guidance], ids=lambda m: m.__name__)
def test_public_names_exist_and_are_documented(layer):
    for name in layer.__all__:
        thing = getattr(layer, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            doc = inspect.getdoc(thing) or ""
            assert doc and not doc.startswith(f"{name}("), f"{name} has no docstring of its own"


def test_the_first_names_are_loaded_on_first_use():
    for name in pullback.__all__:
        assert getattr(pullback, name) is not None
    assert {"sample", "Denoiser", "optimise", "__version__"} <= set(dir(pullback))
    with pytest.raises(AttributeError, match="expected one of"):
        pullback.nothing  # noqa: B018
