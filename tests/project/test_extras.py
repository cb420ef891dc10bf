"""What is not a dependency is imported when it is first needed, and its absence says what to install."""

import ast
import importlib.metadata
import importlib.util
import pathlib
import re
import sys
import tomllib
from collections.abc import Callable, Mapping

import pytest
import torch

from pullback import zoo
from pullback.adjoint import Direct, TorchDiffEq, TorchSDE, audit, sample
from pullback.guidance.recognition import dlib_black_box, dlib_face
from pullback.guidance.rewards import Aesthetic, CLIPScore, JPEGSize, Preprocess
from pullback.guidance.train.adapter import require_peft
from pullback.guidance.train.log import _writer
from pullback.guidance.train.processes import processes
from pullback.solvers import DDIM, VP, Addressed, Gaussian, UniformLambda
from pullback.solvers.optional import library

ROOT = pathlib.Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
FILES = [*(p for layer in ("solvers", "adjoint", "guidance") for p in (ROOT / layer).glob("**/*.py"))]
FILES += [*(ROOT / "pullback").glob("*.py"), *(ROOT / "pullback" / "zoo").glob("*.py")]
OWNERS = importlib.metadata.packages_distributions()
NOWHERE = pathlib.Path("nowhere")


def drawn(gradient, eta=0.0):
    """A run by this strategy."""
    process = VP()
    plan = DDIM(eta).plan(process, UniformLambda(2, end=0.01))
    return sample(
        Gaussian(torch.zeros(2), 1.0).denoiser(process),
        plan,
        torch.ones(1, 2),
        noise=Addressed(0),
        gradient=gradient,
    )


def audited():
    process = VP()
    plan = DDIM().plan(process, UniformLambda(2, end=0.01))
    denoiser = Gaussian(torch.zeros(2), 1.0).denoiser(process)
    return audit(
        denoiser,
        plan,
        torch.ones(1, 2, requires_grad=True),
        lambda x0: x0.square().sum(1),
        {"direct": Direct()},
    )


# import name: (extra, what needs it)
NEEDED: Mapping[str, tuple[str, Callable[[], object]]] = {
    "torchdiffeq": ("ode", lambda: drawn(TorchDiffEq())),
    "torchsde": ("ode", lambda: drawn(TorchSDE(), 1.0)),
    "PIL": ("rewards", lambda: JPEGSize().score(torch.zeros(1, 4, 4), None)),
    "transformers": ("rewards", lambda: CLIPScore.from_path(NOWHERE)),
    "transformers, preprocessing": ("rewards", lambda: Preprocess.from_path(NOWHERE)),
    "transformers, aesthetic": ("rewards", lambda: Aesthetic.from_path(NOWHERE, NOWHERE)),
    "peft": ("train", require_peft),
    "tensorboard": ("train", lambda: _writer(NOWHERE, 0)),
    "accelerate": ("train", processes),
    "dlib": ("faces", dlib_black_box),
    "face_recognition_models": ("faces", dlib_face),
    "matplotlib": ("examples", lambda: audited().figure()),
    "sklearn": ("examples", zoo.digit_images),
    "skimage": ("examples", zoo.face_images),
}


class Blocker:
    """A finder before all others that finds no module of one package."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=self.package)


@pytest.fixture
def without(monkeypatch) -> Callable[[str], None]:
    """Makes a package one that is not installed."""

    def block(package: str) -> None:
        for name in list(sys.modules):
            if name.partition(".")[0] == package or name == f"torch.utils.{package}":
                monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "meta_path", [Blocker(package), *sys.meta_path])
        whole = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name == package else whole(name)
        )

    return block


@pytest.mark.parametrize("needed", NEEDED)
def test_a_missing_package_says_what_to_install(needed, without, monkeypatch):
    extra, call = NEEDED[needed]
    package = needed.partition(",")[0]
    monkeypatch.setenv("WORLD_SIZE", "2")  # where accelerate is wanted
    monkeypatch.setattr(
        "pullback.guidance.recognition.dlib_weights.find_spec", lambda name: importlib.util.find_spec(name)
    )
    without(package)
    with pytest.raises(ImportError, match=rf"""{package}.*pip install ['"]pullback\[{extra}\]['"]"""):
        call()


def test_what_breaks_inside_a_package_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import nothing_of_this_name")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="nothing_of_this_name"):
        library("half_installed", "this test", "all")


def names(requirements: list[str]) -> set[str]:
    """The distributions in these requirements, those of extras that they name among them."""
    found = set()
    for each in requirements:
        inner = re.match(r"pullback\[(.*)\]", each)
        found |= (
            set().union(*(names(EXTRAS[extra]) for extra in inner[1].split(",")))
            if inner
            else {re.split(r"[\[<>=; ]", each)[0].lower().replace("_", "-")}
        )
    return found


@pytest.mark.parametrize("needed", NEEDED)
def test_the_extra_brings_the_package(needed):
    package = needed.partition(",")[0]
    owners = {
        each.lower().replace("_", "-") for each in OWNERS.get(package, ("dlib-bin",))
    }  # it lists no module
    assert owners & names(EXTRAS[NEEDED[needed][0]]) and owners & names(EXTRAS["all"])


def test_nothing_else_is_imported():
    """Every import of the library is of itself, of Python, of a dependency, or of a package in the list above."""
    known = {*sys.stdlib_module_names, *names(PROJECT["dependencies"]), *NEEDED, "pullback"}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            absolute = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            absolute += [each.name for each in node.names] if isinstance(node, ast.Import) else []
            assert {each.partition(".")[0] for each in absolute} <= known, path
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "library":
                module, extra = (
                    part.value for part in (node.args[0], node.args[2]) if isinstance(part, ast.Constant)
                )
                assert NEEDED[str(module).partition(".")[0]][0] == extra, path
