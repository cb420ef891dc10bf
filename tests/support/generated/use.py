"""A good use of a public class or function, to be spoilt one argument at a time."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Make = Callable[[], Any]


@dataclass(frozen=True)
class Use:
    """`act(**arguments)`, with a maker for each argument; those with a default stand at it."""

    name: str
    act: Callable[..., Any]
    good: dict[str, Make] = field(default_factory=dict)
    signature: Callable[..., Any] | None = None

    def arguments(self) -> dict[str, Make]:
        """A maker of a good value for every argument that bad input can be put in the place of."""
        found: dict[str, Make] = {}
        for name, parameter in inspect.signature(self.signature or self.act).parameters.items():
            made_anew = type(parameter.default).__name__ == "_HAS_DEFAULT_FACTORY_CLASS"
            if made_anew or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            if name in self.good:
                found[name] = self.good[name]
            elif parameter.default is not parameter.empty and parameter.default is not None:
                found[name] = lambda value=parameter.default: value
        return found


def called(function: Any, **good: Make) -> Use:
    return Use(function.__name__, function, good)
