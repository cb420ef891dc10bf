"""Solving for the states backwards, from the sample to the noise."""

import math
from abc import ABC, abstractmethod
from array import array

import torch
from torch import Tensor

from ...solvers import NOISE, Combine, Evaluate, Noise, Plan, Prediction, Process
from ...solvers.methods.weights import data_weights
from ...solvers.prediction import conversion


class Resolver(ABC):
    """A solver that goes from node to node of an adjoint's grid, from the last to the first; for one pass."""

    @abstractmethod
    def back(self, i: int, x: Tensor, eps: Tensor) -> Tensor:
        """The state at node i - 1 from that at node i and the noise prediction there."""


class FlowResolver(Resolver):
    """The probability-flow ODE by exponential Adams of second order in the noise prediction, with linear
    extrapolation.
    """

    def __init__(self, process: Process, times: list[float]) -> None:
        t = torch.tensor(times, dtype=torch.float64)
        self.alpha, self.sigma, self.lam = (
            array("d", f(t).tolist()) for f in (process.alpha, process.sigma, process.lam)
        )
        self.past: Tensor | None = None
        if not math.isfinite(self.lam[-1]):
            raise ValueError(
                f"States.RESOLVED: got an infinite lambda at the sample's end t={times[-1]:g}, expected "
                "sigma > 0 and alpha > 0 there; end the grid before, or use recorded states"
            )

    def back(self, i: int, x: Tensor, eps: Tensor) -> Tensor:
        past, self.past = self.past, eps
        if self.alpha[i - 1] == 0:  # nothing but noise
            return self.sigma[i - 1] * eps
        h = self.lam[i - 1] - self.lam[i]
        ratio = self.alpha[i - 1] / self.alpha[i]
        if self.sigma[i - 1] == 0:  # where a rising run began: the data
            return ratio * (x - self.sigma[i] * eps)
        if past is None:  # the first step: first order, as DDIM
            return ratio * x - self.sigma[i - 1] * math.expm1(h) * eps
        now, older = data_weights(-h, [0.0, (self.lam[i + 1] - self.lam[i]) / h])
        return ratio * x + self.sigma[i - 1] * (now * eps + older * past)


class NoiseResolver(Resolver):
    """A stochastic run of single-call steps x_t = r x_s + g P(x_s) + k xi, solved for x_s along the same noise.

    To first order: P is taken at x_t. Its nodes are those of the run from step `begin` on.
    """

    def __init__(self, plan: Plan, noise: Noise | None, begin: int) -> None:
        assert noise is not None
        self.noise, self.steps = noise, []
        for i in range(begin, plan.steps):
            ops = plan.step(i)
            if not (
                len(ops) == 2
                and isinstance(ops[0], Evaluate)
                and isinstance(ops[1], Combine)
                and len(ops[1].noise) < 2
            ):
                raise ValueError(
                    f"States.RESOLVED: got {plan.name} with {len(ops)} instructions in step {i}, expected "
                    "single-call first-order steps (DDPM, DDIM(eta=1)) to re-solve along the noise; use "
                    "recorded states"
                )
            terms = {name: float(c) for c, name in ops[1].terms}  # type: ignore[arg-type]
            ratio, gain = terms.get("x", 0.0), terms[ops[0].outs[0]]
            # P = a x + b eps at the noisier node: the step in terms of the noise prediction
            pair = conversion(NOISE, ops[0].want, plan.process, float(ops[0].t))  # type: ignore[arg-type]
            a, b = (float(c) for c in pair)
            self.steps.append((ratio + gain * a, gain * b, ops[1].noise))

    def back(self, i: int, x: Tensor, eps: Tensor) -> Tensor:
        ratio, gain, noise = self.steps[i - 1]
        value = x - gain * eps
        for c, slot in noise:
            value = value - c * self.noise(slot, x)
        return value / ratio


def as_noise(process: Process, t: float, x: Tensor, prediction: Tensor, kind: Prediction) -> Tensor:
    """A prediction of any kind as the noise prediction."""
    if kind == NOISE:
        return prediction
    a, b = (float(c) for c in conversion(kind, NOISE, process, t))
    return a * x + b * prediction
