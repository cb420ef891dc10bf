"""Reversible couplings: any single-step method made invertible, at twice its network calls."""

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import torch

from ...compiler import Builder, Method
from ...instructions import Apply, Combine, Evaluate, Instruction, writes
from ...prediction import DATA, NOISE
from ..around.ends import Ends
from ..ddim import DDIM
from ..reversible_method import ReversibleMethod


@dataclass(frozen=True)
class Coupled(ReversibleMethod):
    """McCallum-Foster coupling of a single-step method B_i (node i to i + 1), c its linear coefficient, y a
    second state:

        x <- c zeta (x - y) + B_i(y);    y <- c y + x - c B_i^{-}(x),     B_i^{-} the method from node i + 1 back to i

    With zeta < 1 the two attract and the inverse amplifies round-off by zeta^-N. Order of the base method.
    Source: McCallum and Foster 2024, arXiv 2410.11648, eq. 3; the factors c make it exact on the linear part.
    Cost: twice the base's network calls, 2 states and its stages.
    """

    base: Method = DDIM()  # noqa: RUF009
    zeta: float = 0.999

    def __post_init__(self) -> None:
        if not 0 < self.zeta <= 1:
            raise ValueError(f"Coupled: got zeta={self.zeta}, expected 0 < zeta <= 1")
        if isinstance(self.base, Ends):
            raise ValueError(
                f"Coupled: got {self.base}, which goes by how many steps there are, expected a method whose steps are "
                "alike; couple one of its methods"
            )
        if self.base.stochastic:
            raise ValueError(
                f"Coupled: got the stochastic base {self.base}, expected a deterministic one; use "
                "Rex(sde=True)"
            )

    @property
    def order(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.base.order

    def inner(self, b: Builder, i: int, low: int, high: int) -> None:
        if i == low:
            b.combine("y", (1.0, "x"))
        terms, c = self._increment(b, i, (i, i + 1), "y", "a")
        b.combine("x", (c * self.zeta, "x"), (-c * self.zeta, "y"), *terms)
        terms, _ = self._increment(b, i, (i + 1, i), "x", "b")
        b.combine("y", (c, "y"), (1.0, "x"), *((-c * w, name) for w, name in terms))

    def _increment(
        self, b: Builder, i: int, ends: tuple[int, int], src: str, tag: str
    ) -> tuple[list[tuple[float, str]], float]:
        """Emit the base's stages from register `src`; returns the terms of its last Combine, and its factor
        on `src`.
        """
        times = torch.tensor([b.t[k] for k in ends], dtype=torch.float64)
        inner = Builder(b.process, times)
        self.base.step(inner, 0)
        names = {name: f"{name}_{tag}{i}" for op in inner.ops for name in writes(op) if name != "x"} | {
            "x": src
        }
        *stages, last = inner.ops
        if any("x" in writes(op) for op in stages) or not isinstance(last, Combine):
            raise ValueError(
                f"Coupled: got {self.base}, which writes its state more than once a step; expected a "
                "single-step method such as DDIM, DPMSolverPPSingle, FlowMidpoint or FlowHeun"
            )
        b.ops += [_renamed(op, names) for op in stages]
        terms = [(_float(c), names[name]) for c, name in last.terms]
        return terms, next((c for c, name in terms if name == src), 1.0)


def _renamed(op: Instruction, names: dict[str, str]) -> Instruction:
    if isinstance(op, Evaluate):
        return replace(op, outs=tuple(names[name] for name in op.outs), src=names[op.src])
    if isinstance(op, Apply):
        return replace(
            op, outs=tuple(names[name] for name in op.outs), srcs=tuple(names[name] for name in op.srcs)
        )
    return replace(op, out=names[op.out], terms=tuple((c, names[name]) for c, name in op.terms))


def _float(c: Any) -> float:
    assert isinstance(c, float)
    return c


class Stages(Enum):
    """Runge-Kutta schemes for Rex."""

    EULER = "euler"
    MIDPOINT = "midpoint"
    SHARK = "shark"


@dataclass(frozen=True)
class Rex(ReversibleMethod):
    """Coupled exponential Runge-Kutta in the variable X/kappa and clock s, for the ODE and for the reverse SDE:

        X <- (k'/k) (zeta X + (1 - zeta) Y) + k' Psi_h(Y, W);    Y <- (k'/k) Y - k' Psi_{-h}(X, -W),   h = s_{i+1} - s_i

        ODE, data side   k = sigma          s = alpha/sigma        f = D       (from noise to data)
        ODE, noise side  k = alpha          s = sigma/alpha        f = E       (from data to noise)
        SDE              k = sigma^2/alpha  s = alpha^2/sigma^2    f = D,      W a Brownian motion in s

    EULER Psi = h f(Y) + W; MIDPOINT Psi = h f(Y + h/2 f(Y) + W/2) + W;
    SHARK f1 = f(s, Y + H), f2 = f(s + 5h/6, Y + 5/6 (h f1 + W) + H), Psi = h (0.4 f1 + 0.6 f2) + W,
    with H ~ N(0, h/12) the space-time Levy area. The side follows the grid's direction: the other one
    explodes.

    Source: Blasingame and Liu 2025, arXiv 2502.08834; ShARK: Foster et al. 2023, arXiv 2305.12781.
    Cost: 2 network calls a step for EULER, else 4; 2 states. An adaptive run is `accepted_times` and then
    this plan on them, so that the way back takes the very same steps.
    """

    stages: Stages = Stages.EULER
    sde: bool = False
    zeta: float = 0.999

    def __post_init__(self) -> None:
        if not 0 < self.zeta <= 1:
            raise ValueError(f"Rex: got zeta={self.zeta}, expected 0 < zeta <= 1")

    @property
    def stochastic(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.sde

    @property
    def order(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 1 if self.stages is Stages.EULER else 2

    def inner(self, b: Builder, i: int, low: int, high: int) -> None:
        if i == low:
            b.combine("y", (1.0, "x"))
        clock = _Clock(self.sde, b.lam[-1] < b.lam[0])
        slots = (b.slots, b.slots + 1)
        if self.sde:
            b.slots += 2 if self.stages is Stages.SHARK else 1
        (here, k), (there, kk) = (clock.at(b, b.t[j]) for j in (i, i + 1))
        h = there - here
        drive = (math.sqrt(h), math.sqrt(h / 12)) if self.sde else (0.0, 0.0)
        terms, noise = self._psi(b, clock, here, k, h, drive, slots, "y", f"a{i}")
        ratio = kk / k
        b.ops.append(
            Combine(
                "x",
                _nonzero(
                    (ratio * self.zeta, "x"),
                    (ratio * (1 - self.zeta), "y"),
                    *((kk * w, name) for w, name in terms),
                ),
                _scaled(noise, kk),
            )
        )
        # the way back sees the increment with its sign turned; its Levy area keeps its sign
        terms, noise = self._psi(b, clock, there, kk, -h, (-drive[0], drive[1]), slots, "x", f"b{i}")
        b.ops.append(
            Combine("y", _nonzero((ratio, "y"), *((-kk * w, name) for w, name in terms)), _scaled(noise, -kk))
        )

    def _psi(
        self,
        b: Builder,
        clock: "_Clock",
        s: float,
        k: float,
        h: float,
        drive: tuple[float, float],
        slots: tuple[int, int],
        src: str,
        tag: str,
    ) -> tuple[list[tuple[float, str]], tuple[tuple[float, int], ...]]:
        """Emit the stages; returns Psi as terms over predictions and over noise slots."""
        (w, area), (one, two) = drive, slots
        stochastic = self.sde
        if self.stages is Stages.SHARK and stochastic:
            b.ops.append(Combine(f"s{tag}", ((1.0, src),), ((k * area, two),)))
            first = b.evaluate(f"F{tag}", clock.time(b, s), clock.want, f"s{tag}")
        else:
            first = b.evaluate(f"F{tag}", clock.time(b, s), clock.want, src)
        increment = ((w, one),) if stochastic else ()
        if self.stages is Stages.EULER:
            return [(h, first)], increment
        part = 0.5 if self.stages is Stages.MIDPOINT else 5 / 6
        t = clock.time(b, s + part * h)
        kappa = clock.kappa(b, t)
        noise = _scaled(increment, part * kappa)
        if self.stages is Stages.SHARK and stochastic:
            noise += ((kappa * area, two),)
        b.ops.append(Combine(f"m{tag}", ((kappa / k, src), (kappa * part * h, first)), noise))
        second = b.evaluate(f"G{tag}", t, clock.want, f"m{tag}")
        return (
            [(h, second)] if self.stages is Stages.MIDPOINT else [(0.4 * h, first), (0.6 * h, second)]
        ), increment


class _Clock:
    """kappa, s and the prediction f of one of Rex's three forms."""

    def __init__(self, sde: bool, rising: bool) -> None:
        self.power, self.side = (2.0 if sde else 1.0), (-1.0 if rising and not sde else 1.0)
        self.want = DATA if self.side > 0 else NOISE

    def at(self, b: Builder, t: float) -> tuple[float, float]:
        """(s, kappa) at a time."""
        return float(
            (self.side * self.power * b.process.lam(torch.tensor(t, dtype=torch.float64))).exp()
        ), self.kappa(b, t)

    def kappa(self, b: Builder, t: float) -> float:
        at = torch.tensor(t, dtype=torch.float64)
        alpha, sigma = float(b.process.alpha(at)), float(b.process.sigma(at))
        return alpha if self.side < 0 else sigma**self.power * alpha ** (1 - self.power)

    def time(self, b: Builder, s: float) -> float:
        return b.at(self.side * math.log(s) / self.power)[0]


def _nonzero(*terms: tuple[float, str]) -> tuple[tuple[float, str], ...]:
    return tuple((c, name) for c, name in terms if c != 0.0)


def _scaled(noise: tuple[tuple[float, int], ...], c: float) -> tuple[tuple[float, int], ...]:
    return tuple((c * k, slot) for k, slot in noise)
