"""Continuous: values of one plan, gradients of a second."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...solvers import EDMPEC, Call, Evaluate, GivenNoise, Method, Plan
from ...solvers.program import prepare
from ..gradient import Gradient, Registers, refuse
from ..rollout import Rollout
from ..sensitivity import Sensitivity
from ..tape import Captured, differentiable
from ..transpose import transpose
from .nodes import PIECE, Nodes
from .regrid import Spread
from .resolve import as_noise
from .states import States

FIRST = 16


@dataclass(frozen=True)
class Continuous(Gradient):
    """The gradient of the flow itself rather than of the run: the transpose of a second plan, at the states
    of the first.

    The second plan is `method` on M steps of the run's grid; its Jacobians are taken at the run's states, by
    default re-integrated, which costs no network call. Most of the error of an exact discrete gradient, as a
    gradient of the flow, is state error: this one is closer to the flow's than `Checkpoint` is, and is not
    the gradient of the sample that was returned. Below N steps it costs less than `Checkpoint`; where the
    sample itself is what counts, take `Checkpoint`.

    Args:
        steps: M, by default as many as the run's. Fewer take nodes of the run; more divide its steps in
            lambda.
        method: `EDMPEC()` by default; `DPMSolverPP`, `DEIS`, `DDIM`: any method with one prediction a step,
            at the nodes. For a stochastic run a stochastic one with the same marginals, as `DDIM(1.0)` for
            `DDPM()`.
        states: INTEGRATED by default, RECORDED for a stochastic run, RESOLVED for memory that is flat in N.

    Cost: M replays and VJPs, and one call to see that the network is as it was.
    Source: ours; states in the spirit of Kim et al. 2021, arXiv 2109.06098.
    """

    steps: int | None = None
    method: Method = field(default_factory=EDMPEC)
    states: States = States.INTEGRATED

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(
                f"Continuous: got steps={self.steps}, expected at least 1, or None for the run's own"
            )

    def run(self, rollout: Rollout, registers: Registers) -> Registers:
        refuse(self, rollout)
        try:
            return {"x": differentiable(_Second(rollout, registers, self))}
        except Captured as captured:
            raise ValueError(f"{self}: got {captured}; pass it in cond, or use Checkpoint()") from None

    def cost(self, plan: Plan) -> tuple[int, int]:
        m = self.steps or plan.steps
        return plan.nfe + m + 1 + (self.states is States.RESOLVED), m


class _Second(Nodes):
    def __init__(self, rollout: Rollout, registers: Registers, strategy: Continuous) -> None:
        plan = rollout.program.plan
        if plan.stochastic and (not strategy.method.stochastic or strategy.states is States.INTEGRATED):
            raise ValueError(
                f"{strategy}: got the stochastic {plan.name}, expected a stochastic method with its "
                "marginals and recorded or re-solved states: Continuous(method=DDIM(1.0), "
                "states=States.RECORDED) for DDPM()"
            )
        if strategy.method.stochastic and not plan.stochastic:
            raise ValueError(
                f"{strategy}: got the deterministic {plan.name}, expected a deterministic method"
            )
        super().__init__(rollout, registers, strategy.states, strategy.steps)
        self.strategy = strategy
        self.refuse_decoupled(strategy, strategy.steps)
        self.resolver()  # which refuses what it cannot do
        head = self.at[:FIRST]  # where methods differ; the whole is made when it is needed, and costs memory
        second = strategy.method.plan(plan.process, torch.tensor(head, dtype=torch.float64))
        prepare(second, rollout.model, registers["x"])
        asked = [op for op in second.instructions if isinstance(op, Evaluate)]
        if [op.t for op in asked] != head[:-1]:
            raise ValueError(
                f"{strategy}: got {strategy.method} with {len(asked)} predictions on {len(head) - 1} steps, "
                "expected one at each node but the last: a multistep method without starter"
            )
        noise, lone = self.rollout.noise, plan.slots == plan.steps and second.slots == second.steps
        if isinstance(noise, GivenNoise) and noise.values.requires_grad and not lone:
            raise ValueError(
                f"{strategy}: got noise that requires grad and {plan.slots} slots for {plan.steps} steps, "
                "expected one slot a step in the run and in the second plan"
            )

    def pull(self, saved: Sequence[Tensor], end: Tensor, into: Sensitivity) -> Registers:
        assert isinstance(into, Spread)
        path, resolver, process = self.path(saved), self.resolver(), self.rollout.program.plan.process
        x, eps = path[-1], self._at_the_end(path[-1]) if resolver is not None else None

        def pull(call: Call, _: str, cotangent: Tensor) -> Tensor | None:
            nonlocal x, eps
            if resolver is None:
                x = path[call.step]
            else:
                assert eps is not None
                x = resolver.back(call.step + 1, x, eps)
            with self.around[0].restored():
                out, back = into.pull_at(call, [(call.step, 1.0)], x, cotangent)
            if resolver is not None:
                eps = as_noise(process, self.at[call.step], x, out, kinds[call.index])
            return back

        cotangents, times = {"x": end}, torch.tensor(self.at, dtype=torch.float64)
        for low in range((len(self.at) - 2) // PIECE * PIECE, -1, -PIECE):
            piece = self.strategy.method.part(process, times, low, min(low + PIECE, len(self.at) - 1))
            kinds = [op.want for op in piece.instructions if isinstance(op, Evaluate)]
            cotangents = transpose(prepare(piece, self.rollout.model, end), cotangents, pull, into)
        return cotangents

    def _at_the_end(self, x: Tensor) -> Tensor:
        """The noise prediction at the sample: one more network call."""
        (call,) = self.noise_calls(self.at[-1:], x)
        with torch.no_grad(), self.around[0].restored():
            return self.rollout.evaluate(replace(call, step=self.rollout.program.plan.steps - 1), x).detach()
