"""StretchTape: AdjointDEIS along runs that add noise in jumps, stretch by stretch."""

from collections import deque
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from ...solvers import Call
from ..replay.live_call import LiveCall
from ..replay.rollout import Registers, Rollout
from ..replay.sensitivity import Sensitivity
from ..strategies.gradient import Gradient
from .adjoint_grid import AdjointGrid
from .deis_weights import DEISWeights, weighted
from .nodes import NodeTape
from .refusals import refuse_pure_noise, refuse_without_diffusion
from .regrid import Regridded
from .states import States
from .stretches import Jump, StretchGrid, stretches


class StretchTape(NodeTape):
    """A run that keeps the states at the tops of its stretches, and the sample.

    Those at the bottoms, where an exponential adjoint asks the network, are the tops after them without their noise.
    """

    def __init__(self, rollout: Rollout, registers: Registers, strategy: Gradient, order: int) -> None:
        super().__init__(rollout, registers, strategy, States.RECORDED, None)
        plan, self.order = rollout.program.plan, order
        refuse_without_diffusion(strategy, plan)
        refuse_pure_noise(strategy, plan, self.grid.times)
        try:
            found, self.last = stretches(plan, self.grid.begin)
        except ValueError as error:
            raise ValueError(
                f"{strategy}: got {plan.name} with {error}, expected noise added to the state between the steps of a "
                "flow, as by churn and restarts; use Checkpoint()"
            ) from error
        own = {field.name: getattr(self.grid, field.name) for field in fields(AdjointGrid)}
        self.grid = StretchGrid(**own, stretches=found)
        self.tops = {stretch.call for stretch in found}

    def execute(self, registers: Registers) -> Registers:
        done = self.rollout.execute(registers, self.evaluate)
        self.kept.nodes.append(done["x"].clone())  # the sample is the caller's, to write to
        return done

    def record(self, call: Call, state: Tensor, out: Tensor, live: LiveCall | None) -> None:
        super().record(call, state, out, live)
        if call.index in self.tops:
            self.kept.nodes.append(state)

    def pull(self, kept: Any, end: Tensor, into: Sensitivity) -> Registers:
        assert isinstance(into, Regridded) and isinstance(self.grid, StretchGrid)
        process, grid, found = self.rollout.program.plan.process, self.grid, self.grid.stretches
        tops, bottoms = [s.top for s in found], [s.bottom for s in found]
        jumps = [*(s.jump for s in found), self.last]
        cuts = frozenset(k for k, jump in enumerate(jumps) if jump.noise)
        weights = DEISWeights(process, tops, bottoms, self.order, [1.0] * len(found), cuts)
        above, nodes = (
            process.alpha(torch.tensor(t, dtype=torch.float64)).tolist() for t in (tops, grid.times)
        )
        p, recent = (
            nodes[-1] * end,
            deque[Tensor](maxlen=self.order),
        )  # the adjoint of y = x/alpha: no jump moves it
        self._injected(self.last, end, into)

        for k in range(len(found) - 1, -1, -1):
            state = self._undone(jumps[k + 1], kept.nodes[k + 1])
            (call,) = self.noise_calls(bottoms[k : k + 1], state)
            with self.restored():
                _, v = into.vjp_at(call, weights.entering(k), state, p)
            if k + 1 in cuts:
                recent.clear()
            recent.appendleft(torch.zeros_like(p) if v is None else weights.alpha[k] * v)
            p = p + weighted(weights.of(k), recent)

            self._injected(jumps[k], p / above[k], into)
            if found[k].opens:
                step = found[k].step - grid.begin
                into.opened(step, p / nodes[step])
                caught = into.jump(step)
                p = p if caught is None else p + nodes[step] * caught
        return {"x": p / nodes[0]}

    def _undone(self, jump: Jump, x: Tensor) -> Tensor:
        """The state before a jump, from that after it."""
        for c, slot in jump.noise:
            assert self.rollout.noise is not None
            x = x - c * self.rollout.noise(slot, x)
        return x / jump.ratio

    def _injected(self, jump: Jump, cotangent: Tensor, into: Sensitivity) -> None:
        for c, slot in jump.noise:
            into.noise(slot - self.grid.begin, cotangent, c)
