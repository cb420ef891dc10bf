"""Packages that only some of the library needs, imported when it is first used."""

import importlib
from typing import Any


def library(name: str, needed_by: str, extra: str) -> Any:
    """The module `name`, which the extra `extra` of pullback brings.

    Raises:
        ImportError: its package is not there, with what to install. What goes wrong inside a package that is
            there is raised as it is.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        package = name.partition(".")[0]
        if missing.name != package:
            raise
        raise ImportError(
            f'{needed_by}: got no package {package}, expected it beside torch; pip install "pullback[{extra}]"',
            name=package,
        ) from missing
