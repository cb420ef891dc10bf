"""The forward pass: states at all nodes of a window at once, swept until none of them moves."""

from collections.abc import Callable

import torch
from torch import Tensor

from ...solvers import Call
from ...solvers.broadcast import per_sample
from ...solvers.program import Program
from ..replay.rollout import Registers, Rollout
from .rows import Rows
from .secants import Secants
from .unrolled import Unrolled, part

# A node leaves the window, and is not corrected any more, when it moves by this share of the tolerance: where the flow
# drives neighbours apart, between modes, an error that early nodes keep is 10 to 100 times larger at the end.
LEAVES = 0.03


class Forward:
    """A run of `program` on the way to its fixed point.

    A sweep runs the plan with predictions out_j + J_j (x_j - state_j): what the network said of node j in an earlier
    sweep, at `state_j`, moved on by what is known of its Jacobian: the base's slope, and `Secants`. Then the network is
    called on all states of the window. Each sample has a window of its own, from its first node that still moves.

    Args:
        evaluate: the batched call: (rows, states (K, ...)) -> (K, outs, ...).
        window: nodes in one call.
        tol: by how much of its norm a state may move and count as settled.

    Attributes:
        states, outs: (M, B, ...) and (M, B, outs, ...) of the last call at each node.
        seen: (M, B) whether there was one.
        sweeps, rows: how many calls, and samples in them.
    """

    def __init__(
        self,
        rollout: Rollout,
        unrolled: Unrolled,
        evaluate: Callable[[Rows, Tensor], Tensor],
        window: int,
        tol: float,
        memory: int,
    ) -> None:
        self.rollout, self.unrolled, self.evaluate = rollout, unrolled, evaluate
        self.window, self.tol = window, tol
        like = unrolled.like
        self.states = like.new_zeros(len(unrolled), *like.shape)
        self.outs = unrolled.no_outs(len(unrolled))
        self.seen = torch.zeros(len(unrolled), len(like), dtype=torch.bool, device=like.device)
        self.secants = Secants(len(unrolled), len(like), memory, unrolled.sizes, like)
        self.sweeps = self.rows = 0

    def run(self, registers: Registers) -> Registers:
        """The registers at the end of the program."""
        if len(self.unrolled):
            self._settle(dict(registers))
        return self.rollout.execute(
            registers, lambda call, state: self._moved_on(self.unrolled.place(call), state)
        )

    def _settle(self, registers: Registers) -> None:
        """Sweep until every node has settled: each sweep settles a window's first, at the latest."""
        program, calls = self.rollout.program, self.unrolled.calls
        nodes = torch.arange(len(calls), device=self.seen.device)[:, None]
        low, opening = torch.zeros_like(nodes[0]).expand(self.seen.shape[1]), program.ops[0].step
        while int(low.min()) < len(calls):
            # after this sweep a window may open as far as its length past its end
            end = calls[min(int(low.max()) + 2 * self.window, len(calls)) - 1].step + 1
            now, openings = self._recurrence(part(program, opening, end), registers)
            before = nodes < low
            still, firm = (self.seen & near(now, self.states, share * self.tol) for share in (1.0, LEAVES))
            low = (firm | before).long().cumprod(0).sum(0)
            low = torch.where((still | before).all(0), len(calls), low)
            window = (nodes >= low) & (nodes < low + self.window)
            if bool(window.any()):
                self._call(self.unrolled.rows(window), now)
                opening = calls[int(low.min())].step
                registers = openings[opening]
                # all before a window stands, so that its first call was the final one: also where it is not finite
                low = (low + 1).clamp(max=len(calls))

    def _recurrence(self, program: Program, registers: Registers) -> tuple[Tensor, dict[int, Registers]]:
        """The states at all nodes, and the registers that each step of `program` opens with."""
        now, openings = self.states.clone(), dict[int, Registers]()

        def before(step: int, live: Registers) -> None:
            openings[step] = dict(live)
            if self.rollout.controls is not None:
                live["x"] = live["x"] + self.rollout.controls[step]

        def given(call: Call, state: Tensor) -> Tensor:
            node = self.unrolled.place(call)
            now[node] = state
            return self._moved_on(node, state)

        self.rollout.execute(dict(registers), given, program, before)
        return now, openings

    def _moved_on(self, node: int, state: Tensor) -> Tensor:
        """The last prediction at a node, taken to `state` by what is known of its Jacobian."""
        move = state - self.states[node]
        out = self.outs[node] + (self.unrolled.slope(node) * move).unsqueeze(1)
        return self.unrolled.as_called(self.secants.added(out, node, move))

    def _call(self, rows: Rows, now: Tensor) -> None:
        """Call the network on `rows`, and learn from those that were called on before."""
        at = rows.node, rows.sample
        states, again = now[at], self.seen[at]
        out = self.evaluate(rows, states)
        old = rows.chosen(again)
        then = old.node, old.sample
        move = states[again] - self.states[then]
        along = per_sample(self.unrolled.slopes[then], move) * move
        self.secants.learn(old, move, out[again] - self.outs[then] - along.unsqueeze(1))
        self.states[at], self.outs[at], self.seen[at] = states, out, True
        self.sweeps += 1
        self.rows += len(rows.node)


def near(now: Tensor, then: Tensor, tol: float) -> Tensor:
    """Of (M, B, ...) whether `now` differs from `then` by at most `tol` of its norm, (M, B)."""
    return (now - then).flatten(2).norm(dim=2) <= tol * now.flatten(2).norm(dim=2)
