"""The committed results."""

import functools
import importlib.util
import json
import pathlib
import sys
import types
from collections.abc import Iterator
from typing import Any

RESULTS = pathlib.Path(__file__).parents[3] / "benchmarks" / "results"


@functools.cache
def results(name: str) -> Any:
    """benchmarks/results/NAME.json."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def leaves(tree: Any) -> Iterator[float]:
    """Every number in it, however nested."""
    if isinstance(tree, dict):
        tree = tree.values()
    elif isinstance(tree, bool | str) or tree is None:
        return
    elif isinstance(tree, int | float):
        yield tree
        return
    for part in tree:
        yield from leaves(part)


def column(rows: Any, name: str) -> list[Any]:
    """One entry of many rows, which are a list or the values of a table."""
    return [row[name] for row in (rows.values() if isinstance(rows, dict) else rows)]


@functools.cache
def script(name: str, folder: str = "benchmarks") -> types.ModuleType:
    """FOLDER/NAME.py, for what it writes of a result. Its neighbours are found while it is read."""
    home = RESULTS.parents[1] / folder
    spec = importlib.util.spec_from_file_location(f"script_{name}", home / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name], before = module, [*sys.path]  # dataclasses look their module up
    sys.path.append(str(home))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = before
    return module


def card(name: str) -> Any:
    """What training wrote of a bundled model, beside its weights."""
    home = "examples" if name == "procedural" else "pullback/zoo"
    return json.loads((RESULTS.parents[1] / home / "weights" / f"{name}.json").read_text())


def wilson(share: float, trials: int) -> tuple[float, float]:
    """The ends of Wilson's 95 % interval."""
    z = 1.959964
    middle = share + z * z / (2 * trials)
    half = z * (share * (1 - share) / trials + z * z / (4 * trials**2)) ** 0.5
    return (middle - half) / (1 + z * z / trials), (middle + half) / (1 + z * z / trials)
