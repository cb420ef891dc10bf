"""deepinv and k-diffusion without torchvision, whose build would break a CPU torch: a mock stands in while they are
imported. What is used of them here asks it for nothing.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import MagicMock

WANT_IT = ("deepinv", "k_diffusion")


class StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports a mock for torchvision."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        return (
            importlib.machinery.ModuleSpec(fullname, self, is_package=True)
            if fullname.split(".")[0] == "torchvision"
            else None
        )

    def create_module(self, spec: Any) -> Any:
        module = MagicMock()
        module.__spec__, module.__path__, module.__name__, module.__version__ = spec, [], spec.name, "0.0"
        return module

    def exec_module(self, module: Any) -> None: ...


@contextmanager
def torchvision_stand_in() -> Iterator[None]:
    """What is imported inside is forgotten after it, or the next library would take the mock for torchvision."""
    if importlib.util.find_spec("torchvision") is not None:
        yield
        return
    before, finder = set(sys.modules), StandIn()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            if name.split(".")[0] in ("torchvision", *WANT_IT):
                del sys.modules[name]
