"""AdjointDEIS, as published, its higher orders and its runs that add noise in jumps: the faithful baseline."""

from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...solvers import Call, Plan
from ..replay.rollout import Registers, Rollout
from ..replay.sensitivity import Sensitivity
from ..replay.tape import Tape
from ..strategies.taped import Taped
from .deis_weights import DEISStart, DEISWeights, weighted
from .nodes import NodeTape
from .noise_levels import factors
from .refusals import refuse_pure_noise, refuse_without_diffusion
from .regrid import Entering, Regridded
from .state_path import ResolvedPath
from .states import States
from .stretch_tape import StretchTape
from .stretches import is_jump, stretches


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
        order 3, 4 (ours): V <- the polynomial in lambda through the last 3 or 4, integrated exactly

    On a rising grid, from data to noise, the same formulas run from the noisier node to the cleaner. Where noise is
    added between steps, as by churn, Restart and Ancestral, a_x only changes in scale, and each stretch of the flow
    between two jumps is solved for itself.

    Read before use: at high noise one first-order step multiplies alpha a_x by 2 - e^|h| where the truth is
    e^-|h|, a sign flip for |h| > ln 2 and a blow-up for |h| > ln 3. On standard normal data, t uniform from
    1e-3, where dL/dx is 1, order 1 gives -287.8, -0.0155, 0.0650, 0.472, 0.710 with 5, 10, 20, 50, 100 steps. A higher
    order does not cure it: extrapolated, V grows as e^|h| too. The gradients of conditioning and parameters are good
    from 10 steps on. Of a stochastic run the adjoint follows the same noise, to first order in h whatever `order`.
    `Checkpoint()` costs the same with recorded states and is exact; `Continuous()` is the accurate continuous adjoint.

    Args:
        order: 1 or 2, as published; 3 or 4.
        steps: M, by default as many as the run's; a coarser grid takes nodes of the run.
        states: RECORDED, as in the paper's results, or RESOLVED (memory flat in N).

    Cost: M replays and VJPs, one more for order 4, and one call to see that the network is as it was; of a run with
    jumps M is the number of stretches, its states recorded.
    Source: Blasingame and Liu 2024, arXiv 2405.15020, prop. 2.1, app. G; misprints corrected.
    """

    order: int = 1
    steps: int | None = None
    states: States = States.RECORDED

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3, 4):
            raise ValueError(f"AdjointDEIS: got order={self.order}, expected 1 to 4; take one of them")
        if self.steps is not None and self.steps < 1:
            raise ValueError(
                f"AdjointDEIS: got steps={self.steps}, expected at least 1, or None for the run's own"
            )

    def tape(self, rollout: Rollout, registers: Registers) -> Tape:
        plan = rollout.program.plan
        plan.check_affine(str(self))
        if _jumps(plan):
            if self.states is not States.RECORDED or self.steps not in (None, plan.steps):
                raise ValueError(
                    f"{self}: got {plan.name}, which adds noise in jumps, expected steps=None and recorded states: "
                    "every stretch between two jumps is solved for itself"
                )
            return StretchTape(rollout, registers, self, self.order)
        return _AdjointTape(rollout, registers, self)

    def cost(self, plan: Plan) -> tuple[int, int]:
        m = len(stretches(plan, 0)[0]) if _jumps(plan) else (self.steps or plan.steps) + (self.order == 4)
        return plan.nfe + m + 1, m


def _jumps(plan: Plan) -> bool:
    return any(map(is_jump, plan.instructions))


class _AdjointTape(NodeTape):
    def __init__(self, rollout: Rollout, registers: Registers, strategy: AdjointDEIS) -> None:
        super().__init__(rollout, registers, strategy, strategy.states, strategy.steps)
        self.order, plan = strategy.order, rollout.program.plan
        refuse_without_diffusion(strategy, plan)
        self.factors = factors(strategy, plan)
        refuse_pure_noise(strategy, plan, [self.grid.at[0], self.grid.at[-1]])

    def pull(self, kept: Any, end: Tensor, into: Sensitivity) -> Registers:
        assert isinstance(into, Regridded)
        plan, path, stepwise, at = (
            self.rollout.program.plan,
            self.path(kept),
            self.grid.is_the_runs,
            self.grid.at,
        )
        weights = DEISWeights(plan.process, at[:-1], at[1:], self.order, self.factors_of_intervals())
        alpha = plan.process.alpha(torch.tensor(at, dtype=torch.float64)).tolist()
        a, recent, start = end, deque[Tensor](maxlen=self.order), DEISStart(weights, alpha[-1] * end)

        for i, call in self.noise_calls_backwards(path.state(self.grid.steps)):
            if stepwise:
                self.injected(self.grid.begin + i - 1, a, into)

            def product(
                p: Tensor, entering: Entering, i: int = i, call: Call = call
            ) -> tuple[Tensor, Tensor]:
                with self.restored():
                    eps, v = into.vjp_at(call, entering, path.state(i), p)
                return eps, torch.zeros_like(p) if v is None else alpha[i] * v

            p, entering = alpha[i] * a, weights.entering(i - 1)
            if start.running() and start.twice():
                _, first = product(p, [(i - 1, 0.0)])
                p = start.next(first, 1)
            eps, v = product(p, entering)
            if i > 1 and isinstance(path, ResolvedPath):
                path.predicted(eps)
            recent.appendleft(v)
            if start.running():
                p = start.next(v)
                start.took(v)
            else:
                p = alpha[i] * a + weighted(weights.of(i - 1), recent)
            a = p / alpha[i - 1]

            if stepwise:
                into.opened(i - 1, a)
            jump = into.jump(i - 1)
            if jump is not None:
                a = a + jump
                start.jumped(alpha[i - 1] * jump)
        return {"x": a}

    def factors_of_intervals(self) -> list[float]:
        """1 + tau^2 for each interval of the adjoint: the mean over the run's steps that it covers."""
        shares = [self.grid.shares(k) for k in range(self.grid.steps)]
        return [sum(self.factors[step] * share for step, share in steps) for steps in shares]
