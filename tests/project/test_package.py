"""The wheel and the sdist hold what the tree holds: nothing missing, nothing foreign, and one builds the other."""

import pathlib
import re
import shutil
import tomllib
import zipfile

import pytest
from packed import LAYERS, build, copied

ROOT = pathlib.Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MOST = 16 * 2**20  # bytes of a wheel: 14 MB of them are the bundled models and images


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
    """(wheel, sdist) of a copy of the tree."""
    tree, out = copied(tmp_path_factory.mktemp("tree")), tmp_path_factory.mktemp("dist")
    return build(tree, "wheel", out), build(tree, "sdist", out)


def in_the_tree() -> set[str]:
    """What is to be installed, by its place in site-packages."""
    at = {layer: ROOT / layer for layer in LAYERS} | {"zoo": ROOT / "pullback" / "zoo"}
    found = {
        f"pullback/{name}/{path.relative_to(folder).as_posix()}"
        for name, folder in at.items()
        for path in folder.glob("**/*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return found | {f"pullback/{name}" for name in ("__init__.py", "__main__.py", "py.typed")}


def contents(wheel: pathlib.Path) -> dict[str, bytes]:
    """Every file of a wheel but for the notes about the distribution."""
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist() if ".dist-info/" not in name}


@pytest.mark.slow
def test_the_wheel_holds_the_tree_and_nothing_else(built):
    wheel, _ = built
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, {len(contents(wheel))} files")
    assert contents(wheel).keys() == in_the_tree()
    assert wheel.name == f"pullback-{PROJECT['version']}-py3-none-any.whl"
    assert wheel.stat().st_size < MOST


@pytest.mark.slow
def test_the_sdist_builds_the_same_wheel(built, tmp_path):
    wheel, sdist = built
    shutil.unpack_archive(sdist, tmp_path)
    again = build(tmp_path / sdist.name.removesuffix(".tar.gz"), "wheel", tmp_path)
    assert contents(again) == contents(wheel)


@pytest.mark.slow
def test_what_the_wheel_says_of_itself(built):
    with zipfile.ZipFile(built[0]) as file:
        (place,) = (name for name in file.namelist() if name.endswith("METADATA"))
        said = file.read(place).decode()
        assert any(name.endswith("licenses/LICENSE") for name in file.namelist())
    assert f"Version: {PROJECT['version']}\n" in said and "License-Expression: Apache-2.0\n" in said
    assert set(re.findall(r"^Provides-Extra: (\S+)$", said, re.M)) == set(PROJECT["optional-dependencies"])


def test_one_version_everywhere():
    """That of pyproject.toml, at the head of the changelog and in the citation."""
    heads = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert heads[0] in (PROJECT["version"], "Unreleased") and PROJECT["version"] in heads[:2]
    assert cited and cited[1] == PROJECT["version"]


def test_each_python_that_is_named_is_allowed():
    named = [re.search(r":: (3\.\d+)$", each) for each in PROJECT["classifiers"]]
    versions = sorted(int(each[1].split(".")[1]) for each in named if each)
    assert versions and PROJECT["requires-python"] == f">=3.{versions[0]}"
