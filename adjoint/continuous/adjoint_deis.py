"""AdjointDEIS, as published: the faithful baseline."""

import math
from array import array
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...solvers import Combine, Evaluate, Plan, Process
from ..gradient import Gradient
from ..replay.rollout import Registers, Rollout
from ..replay.sensitivity import Sensitivity
from ..replay.tape import Tape
from ..taped import Taped
from .nodes import NodeTape
from .regrid import Entering, Regridded
from .state_path import ResolvedPath
from .states import States


@dataclass(frozen=True)
class AdjointDEIS(Taped):
    """The continuous adjoint of the flow, solved from the sample to the noise by exponential integrators at
    the clean end.

    With t the cleaner and s the noisier node, h = lambda_s - lambda_t < 0, V_x(t) = alpha_t^2 (dE/dx)^T
    a_x(t) and V_z(t) = alpha_t (dE/dz)^T a_x(t) for conditioning and parameters z, r the node before t, rho =
    (lambda_t - lambda_r)/h:

        a_x(s) = (alpha_t/alpha_s) a_x(t) + f (sigma_s/alpha_s^2) (e^h - 1) V_x
        a_z(s) = a_z(t)                   + f (sigma_s/alpha_s)   (e^h - 1) V_z
        order 2:  V <- (1 + 1/(2 rho)) V(t) - 1/(2 rho) V(r);     f = 1 + tau^2: 1 for the ODE, 2 for the reverse
                                                                  SDE, between for DDIM(eta), SASolver(tau=...)

    Read before use: at high noise one first-order step multiplies alpha a_x by 2 - e^|h| where the truth is
    e^-|h|, a sign flip for |h| > ln 2 and a blow-up for |h| > ln 3. On standard normal data, t uniform from
    1e-3, where dL/dx is 1, order 1 gives -287.8, -0.0155, 0.0650, 0.472, 0.710 with 5, 10, 20, 50, 100 steps.
    The gradients of conditioning and parameters are good from 10 steps on. Of a stochastic run the adjoint follows
    the same noise, and where tau is not 1 its f is right to first order in h alone. `Checkpoint()` costs the same with
    recorded states and is exact; `Continuous()` is the accurate continuous adjoint.

    Args:
        order: 1 or 2.
        steps: M, by default as many as the run's; a coarser grid takes nodes of the run.
        states: RECORDED, as in the paper's results, or RESOLVED (memory flat in N).

    Cost: M replays and VJPs, and one call to see that the network is as it was.
    Source: Blasingame and Liu 2024, arXiv 2405.15020, prop. 2.1, app. G; misprints corrected.
    """

    order: int = 1
    steps: int | None = None
    states: States = States.RECORDED

    def __post_init__(self) -> None:
        if self.order not in (1, 2):
            raise ValueError(f"AdjointDEIS: got order={self.order}, expected 1 or 2")
        if self.steps is not None and self.steps < 1:
            raise ValueError(
                f"AdjointDEIS: got steps={self.steps}, expected at least 1, or None for the run's own"
            )

    def tape(self, rollout: Rollout, registers: Registers) -> Tape:
        rollout.program.plan.check_affine(str(self))
        return _AdjointTape(rollout, registers, self)

    def cost(self, plan: Plan) -> tuple[int, int]:
        m = self.steps or plan.steps
        return plan.nfe + m + 1, m


class _AdjointTape(NodeTape):
    def __init__(self, rollout: Rollout, registers: Registers, strategy: AdjointDEIS) -> None:
        super().__init__(rollout, registers, strategy, strategy.states, strategy.steps)
        self.strategy, plan, start = strategy, rollout.program.plan, self.grid.at[0]
        self.factors = _factors(strategy, plan)
        if not float(plan.process.alpha(torch.tensor(start, dtype=torch.float64))) > 0:
            raise ValueError(
                f"{strategy}: got a grid that starts at alpha = 0 (t={start:g}), where 1/alpha is "
                "infinite; start it later, or use Continuous()"
            )

    def pull(self, kept: Any, end: Tensor, into: Sensitivity) -> Registers:
        assert isinstance(into, Regridded)
        plan, path, stepwise = self.rollout.program.plan, self.path(kept), self.grid.is_the_runs
        weights = _Weights(plan.process, self.grid.at, self.strategy.order, self.factors_of_intervals())
        alpha, a, older = weights.alpha, end, None

        for i, call in self.noise_calls_backwards(path.state(self.grid.steps)):
            if stepwise:
                self.injected(self.grid.begin + i - 1, a, into)

            with self.restored():
                eps, v = into.vjp_at(call, weights.entering(i), path.state(i), alpha[i] * a)
            if isinstance(path, ResolvedPath):
                path.predicted(eps)

            now, past = weights.at(i)
            v = torch.zeros_like(a) if v is None else alpha[i] * v
            slope = now * v if older is None else now * v + past * older
            a, older = (alpha[i] * a + slope) / alpha[i - 1], v

            if stepwise:
                into.opened(i - 1, a)
            jump = into.jump(i - 1)
            a = a if jump is None else a + jump
        return {"x": a}

    def factors_of_intervals(self) -> list[float]:
        """1 + tau^2 for each interval of the adjoint: the mean over the run's steps that it covers."""
        shares = [self.grid.shares(k) for k in range(self.grid.steps)]
        return [sum(self.factors[step] * share for step, share in steps) for steps in shares]


class _Weights:
    """What V at each node counts for in the two steps that it enters.

    Args:
        factors: 1 + tau^2 for each interval: 1 for the ODE, 2 for the reverse SDE.
    """

    def __init__(self, process: Process, at: list[float], order: int, factors: list[float]) -> None:
        t = torch.tensor(at, dtype=torch.float64)
        self.alpha, self.sigma, self.lam = (
            array("d", f(t).tolist()) for f in (process.alpha, process.sigma, process.lam)
        )
        self.order, self.factors = order, factors

    def at(self, i: int) -> tuple[float, float]:
        """For the step from node i to i - 1 the weights of V at node i and of V at node i + 1."""
        h = self.lam[i - 1] - self.lam[i]
        scale = self.factors[i - 1] * self.sigma[i - 1] / self.alpha[i - 1] * math.expm1(h)
        if self.order == 1 or i + 1 == len(self.lam):  # nothing lies before the first step
            return scale, 0.0
        rho = (self.lam[i] - self.lam[i + 1]) / h
        return scale * (1 + 0.5 / rho), -scale * 0.5 / rho

    def entering(self, i: int) -> Entering:
        """The intervals that V at node i enters, with its weights there."""
        now, _ = self.at(i)
        if i == 1:
            return [(0, now)]
        _, past = self.at(i - 1)
        return [(i - 1, now), (i - 2, past)]


def _factors(strategy: Gradient, plan: Plan) -> list[float]:
    """1 + tau^2 for each step of the run, tau^2 read off the noise that the step adds.

    A step of the SDE of level tau adds sigma_t^2 (1 - e^{-2 tau^2 h}) where its noise is carried along exactly:
    SA-Solver's tau, DDPM's 1. Others agree to first order in h, as DDIM's eta does.
    """
    if plan.order < 1:
        raise ValueError(
            f"{strategy}: got {plan.name}, whose steps follow no diffusion, expected those of an ODE or SDE; use "
            "Checkpoint()"
        )
    if not plan.stochastic:
        return [1.0] * plan.steps
    times = torch.tensor(plan.times, dtype=torch.float64)
    sigma, lam = plan.process.sigma(times).tolist(), plan.process.lam(times).tolist()
    found = []
    for i in range(plan.steps):
        added = [c for op in plan.step(i) if isinstance(op, Combine) for c, _ in op.noise]
        h = lam[i + 1] - lam[i]
        if not math.isfinite(h):
            found.append(2.0)
            continue
        share = sum(float(c) ** 2 for c in added) / sigma[i + 1] ** 2  # type: ignore[arg-type]
        reached = plan.process.lam(
            torch.tensor([op.t for op in plan.step(i) if isinstance(op, Evaluate)]).double()
        )
        # tau^2 = 1 lies between the two ways of writing the noise of a step, e^{2h} - 1 and 1 - e^{-2h}; a rule
        # that takes g^2 where the step opens, as Euler-Maruyama, passes them by a share of order h
        most = (1 + h) * math.expm1(2 * h)
        if share > most or bool((reached < lam[i] - 1e-6).any()):
            raise ValueError(
                f"{strategy}: got {plan.name}, whose step {i} adds noise of {share:.3g} sigma^2 and evaluates at "
                f"lambda {float(reached.min()):.3g}, expected at most {most:.3g} and no lower than {lam[i]:.3g}: the "
                "noise of one diffusion (tau up to 1), without churn and restarts, in steps that are not too long; "
                "take more steps, or use Checkpoint()"
            )
        if share >= 0.98 * -math.expm1(-2 * h):
            found.append(2.0)
        else:
            found.append(1 - math.log1p(-share) / (2 * h))
    return found
