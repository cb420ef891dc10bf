"""A stand-in for torchvision, which deepinv wants at import and most of it does not use."""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from unittest.mock import MagicMock


class StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports a mock for torchvision, which deepinv wants at import and its physics do not."""

    def find_spec(self, fullname, path=None, target=None):
        return (
            importlib.machinery.ModuleSpec(fullname, self, is_package=True)
            if fullname.split(".")[0] == "torchvision"
            else None
        )

    def create_module(self, spec):
        module = MagicMock()
        module.__spec__, module.__path__, module.__name__, module.__version__ = spec, [], spec.name, "0.0"
        return module

    def exec_module(self, module): ...


def stood_in() -> list[object]:
    """`sys.meta_path` with it, where there is no torchvision."""
    missing = importlib.util.find_spec("torchvision") is None
    return [StandIn(), *sys.meta_path] if missing else [*sys.meta_path]
