"""Packages that only some strategies need, imported when one of them first runs."""

import importlib
from typing import Any


def library(name: str) -> Any:
    """The package `name`. Raises ImportError saying what to install."""
    try:
        return importlib.import_module(name)
    except ImportError as missing:
        raise ImportError(
            f"{name}: got no such package, expected it for this strategy; pip install pullback[ode]"
        ) from missing
