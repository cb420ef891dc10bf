"""Bad input to every public call: it works, or an error says what is wrong before the network is called.

Run as a module of its own, without the type checks that the test session puts around the library: users have none.
"""

import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pullback.adjoint import Checkpoint, Gradient, Mechanism
from pullback.guidance import DPS, Guide
from pullback.solvers import (
    DDIM,
    VP,
    Denoiser,
    Grid,
    Method,
    Model,
    Noise,
    Plan,
    Prediction,
    Process,
    UniformT,
)

from .judge import explains_the_network, unclear
from .public_calls import CALLS, NET, Use, uses

# bad values that few arguments can take: where one is taken in silence, `taken.TAKEN` says why
SUSPECT = frozenset({
    "a string", "an object", "a class", "the class", "nan", "infinity", "-1", "complex numbers", "on meta", "integers",
    "one axis less", "a scalar",
})  # fmt: skip
LATE = ("nan", "inf", "a callable that gives")  # what can show in the course of a run only


def _nothing(*args: Any) -> None:
    return None


def bad_values(good: Any) -> Iterator[tuple[str, Any]]:
    """(its name, a value of another kind or of no use) for the place of a good one."""
    if isinstance(good, bool) or good is None:
        return
    yield "a string", "checkpoint"
    yield "None", None
    if isinstance(good, Tensor):
        yield from _bad_tensors(good)
        return
    if isinstance(good, (int, float)):
        yield "a list", [1, 2]
        yield "nan", math.nan
        yield "-1", -1 if isinstance(good, int) else -1.0
        yield "a class", VP
        yield "a tensor of two", torch.ones(2)
        if isinstance(good, int):
            yield "1.5", 1.5
            yield "0", 0
        else:
            yield "infinity", math.inf
        return
    yield "3", 3
    yield "an object", object()
    kinds: tuple[tuple[type, Any], ...] = (
        (Model, Denoiser), (Plan, DDIM()), (Method, DDIM), (Process, VP), (Prediction, "DATA"), (Grid, UniformT),
        (Noise, torch.Generator()), (Gradient, Checkpoint), (Guide, DPS),
    )  # fmt: skip
    for kind, confused in kinds:
        if isinstance(good, kind):
            yield f"{confused if isinstance(confused, type) else type(confused)}", confused
            yield "a tensor", torch.ones(2, 4)
            yield "a lambda", _nothing
    if isinstance(good, Model):
        yield "the network", NET
    if isinstance(good, Gradient):
        yield "a mechanism", Mechanism.REGION
    if isinstance(good, Noise):
        yield "a seed", 0
    if isinstance(good, Plan):
        yield "a grid", UniformT(3)
    if callable(good) and not isinstance(good, (nn.Module, Model)):
        yield "a callable that gives None", _nothing
        yield (
            "a callable that gives a scalar",
            lambda *args: args[0].sum() if isinstance(args[0], Tensor) else 0.0,
        )


def _bad_tensors(good: Tensor) -> Iterator[tuple[str, Any]]:
    yield "a number", 3
    yield "a list", good.tolist()
    yield "an array", good.detach().numpy()
    yield "the class", Tensor
    yield "integers", good.detach().long()
    yield "complex numbers", good.detach().to(torch.complex128)
    yield "nan", torch.full_like(good, math.nan).requires_grad_(good.requires_grad)
    yield "on meta", good.detach().to("meta").requires_grad_(good.requires_grad)
    yield "a scalar", torch.tensor(0.5)
    yield "one axis more", good.detach()[None].clone().requires_grad_(good.requires_grad)
    if good.ndim:
        yield "one axis less", good.detach()[0].clone().requires_grad_(good.requires_grad)
        yield "one row more", torch.cat([good, good[:1]]).detach().requires_grad_(good.requires_grad)
        yield "half precision", good.detach().half().requires_grad_(good.requires_grad)


@dataclass(frozen=True)
class Finding:
    """A fault: a raw error, an unclear one, or one that came after network calls were made."""

    use: str
    argument: str
    bad: str
    told: str

    @property
    def place(self) -> str:
        return f"{self.use}.{self.argument}"

    def __str__(self) -> str:
        return f"{self.use}({self.argument}={self.bad}): {self.told}"


@dataclass(frozen=True)
class Attempt:
    """One bad value in the place of one argument. Attributes: taken: whether it was, without a word."""

    place: str
    bad: str
    taken: bool
    finding: Finding | None

    @property
    def suspect(self) -> bool:
        """Whether a wrong number may have come of it."""
        return self.taken and self.bad in SUSPECT


def attempts(use: Use) -> Iterator[Attempt]:
    """All bad input to one use."""
    makers = use.arguments()
    for argument, make in makers.items():
        for name, bad in bad_values(make()):
            arguments = {k: bad if k == argument else v() for k, v in makers.items()}
            complaint = _complaint(
                lambda arguments=arguments: use.act(**arguments), any(word in name for word in LATE)
            )
            finding = Finding(use.name, argument, name, complaint) if complaint else None
            yield Attempt(f"{use.name}.{argument}", name, complaint is None, finding)


def _complaint(act: Callable[[], Any], late: bool) -> str | None:
    """What is wrong with how it was refused, or ""; None where it was taken. A number that is not finite may show
    during the run.
    """
    CALLS[0] = 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            act()
    except Exception as error:
        what = unclear(error)
        if what:
            return f"{what}{type(error).__name__}: {error}"[:300]
        asked = CALLS[0] == 1 and explains_the_network(error)
        if CALLS[0] and not late and not asked:
            return f"after {CALLS[0]} network calls: {error}"[:300]
        return ""
    return None


def good_uses_that_fail() -> list[str]:
    """The table's own mistakes."""
    failed = []
    for use in uses():
        try:
            use.act(**{k: make() for k, make in use.arguments().items()})
        except Exception as error:
            if use.name != "read_log":
                failed.append(f"{use.name}: {type(error).__name__}: {error}"[:300])
    return failed


def main() -> None:
    """Print as JSON: mistakes of the table, the number of attempts, the findings, what was taken that few can take."""
    torch.manual_seed(0)
    made = [attempt for use in uses() for attempt in attempts(use)]
    told = {
        "mistakes": good_uses_that_fail(),
        "attempts": len(made),
        "findings": [str(attempt.finding) for attempt in made if attempt.finding is not None],
        "taken": [f"{attempt.place}={attempt.bad}" for attempt in made if attempt.suspect],
    }
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
