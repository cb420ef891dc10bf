"""DPM-Solver-v3: exponential Adams in the parameterisation that a model's own statistics ask for."""

from dataclasses import dataclass
from typing import Annotated

import torch

from ...compiler import CAP, Builder, Method
from ...instructions import Apply
from ...linear_map import LinearMap, PerElement
from ...prediction import DATA
from ...wanted import Limit, Wanted
from ..adams import Nodes
from ..runge_kutta import BY_ORDER, rho_step_from_data
from .v3_statistics import Elements, ModelStatistics

_Corrector = Annotated[int, Wanted("a whole number from 0 (none) to 4", lambda n: n in (0, 1, 2, 3, 4))]


@dataclass(frozen=True)
class DPMSolverV3(Method):
    """With y = x/alpha, F_i = (1 - l_i) y_i - D_i and L, S the integrals of l and s over lambda from the step's start:

        y_t = e^{-L_t} (y_s - INT e^{L + S} (g + B) dlambda),   g = e^{-S} F - B,   B = INT e^{-S} b dlambda

    g is interpolated through the last `predictor` nodes; the corrector's polynomial has `corrector` nodes, the new one
    with them (0: none), and the prediction made there is kept as F, so it costs no call. Integrals are those
    of the statistics' splines, to round-off; any grid will do. (l, s, b) = (1, 0, 0) is
    `SASolver(predictor, corrector, tau=0)`, without corrector `DPMSolverPP(predictor, exact=True)`; (0, -1, 0) without
    corrector is `DPMSolver(predictor, exact=True)`.

    Derivatives of g are those of its polynomial, of full order; the paper's "pseudo" ones drop terms of it at few
    steps, and are left out. Steps that touch alpha = 0 or sigma = 0 are first order; one more than `cap` times the
    mean of those behind it uses one node. `starter` begins with rho-Runge-Kutta steps.

    Args:
        statistics: of the model, by `model_statistics`. With one number a lambda the coefficients are numbers; else
            they are `PerElement`, and with b other than 0 the plan holds an Apply (a state of ones to be scaled):
            what asks for numbers or for Combine alone then refuses it by name.

    Order: `predictor`, or min(predictor + 1, corrector). Source: Zheng et al. 2023, arXiv 2310.13268, eq. 8 to 12 and
    algorithm 1. Cost: 1 network call a step, predictor + 2 states.
    """

    statistics: ModelStatistics = ModelStatistics([0.0], [1.0], [0.0], [0.0])  # of no model: the data side
    predictor: Nodes = 3
    corrector: _Corrector = 3
    starter: bool = False
    cap: Limit = CAP

    @property
    def order(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return min(self.predictor + 1, self.corrector) if self.corrector else self.predictor

    def step(self, b: Builder, i: int) -> None:
        if i == 0 and self.statistics.drifts:
            b.ops.append(Apply(("one",), ("x",), torch.ones_like))
        if not (b.finite(i) and b.finite(i + 1)):
            return b.first_order(i)
        fresh = f"F{i}" not in b.evaluated
        if fresh:
            self._remember(b, i, "x", b.data(i))
        if self.starter and i < self.predictor - 1:
            return rho_step_from_data(b, i, BY_ORDER[self.order])
        reach = b.reach(i, max(self.predictor, self.corrector - 1), self.cap)
        past = [b.lam[i - j] for j in range(reach)]
        names = [f"F{i - j}" for j in range(reach)]
        predict = self.statistics.step(b.lam[i], b.lam[i + 1], past[: self.predictor])
        if not self.corrector or i + 1 == b.steps:
            return self._advance(b, i, "x", predict, names)
        self._advance(b, i, f"p{i + 1}", predict, names)
        data = b.evaluate(f"D{i + 1}", b.t[i + 1], DATA, f"p{i + 1}")
        self._remember(b, i + 1, f"p{i + 1}", data)
        correct = self.statistics.step(b.lam[i], b.lam[i + 1], [b.lam[i + 1], *past][: self.corrector])
        self._advance(b, i, "x", correct, [f"F{i + 1}", *names])

    def _remember(self, b: Builder, i: int, src: str, data: str) -> None:
        """F of node i at register src. It is what the corrector keeps: x moves on, F stays."""
        level = 1 - self.statistics.level(b.lam[i])
        b.combine(f"F{i}", (_coefficient(level / b.alpha[i]), src), (-1.0, data))
        b.evaluated.add(f"F{i}")

    @staticmethod
    def _advance(
        b: Builder, i: int, out: str, step: tuple[Elements, list[Elements], Elements], names: list[str]
    ) -> None:
        keep, weights, rest = step
        alpha = b.alpha[i + 1]
        b.combine(
            out,
            (_coefficient(alpha / b.alpha[i] * keep), "x"),
            *((_coefficient(-alpha * w), name) for w, name in zip(weights, names, strict=False)),
            (_coefficient(alpha * rest), "one"),
        )


def _coefficient(values: Elements) -> float | LinearMap:
    """A number, or factors for every element; 0.0, which leaves the term out, where all are."""
    if not values.any():
        return 0.0
    return PerElement(torch.from_numpy(values)) if values.ndim else float(values)
