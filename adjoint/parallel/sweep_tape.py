"""SweepTape: a run in parallel between its forward and its backward pass."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor
from torch.utils._pytree import tree_leaves

from ...solvers import Call
from ...solvers.per_step import PerStep
from ..replay.fingerprint import Replays, drift, not_repeated
from ..replay.live_call import LiveCall, replay
from ..replay.rollout import Registers, Rollout
from ..replay.sensitivity import Sensitivity
from ..replay.tape import Tape
from .backward import Backward
from .forward import Forward
from .ranks import Ranks
from .reads import Reads
from .rows import Rows, on_rows
from .swept import Swept, Way
from .unrolled import Unrolled, part
from .window_graph import WindowGraph


class SweepSettings(NamedTuple):
    """How the two passes sweep; see `Parallel`."""

    window: int
    tol: float
    memory: int
    backward_sweeps: int | None
    observe: Callable[[Swept], None] | None


class _Kept(NamedTuple):
    """Of every node, between the passes: its state, and the marks of what the network said there."""

    states: Tensor
    marks: Tensor


class SweepTape(Tape):
    """A run of which the states at all nodes are kept.

    The first network call is of the first step alone, as the plain loop has it: what a network keeps from its first
    call is then the same. It is looked at as on every tape. After the first sweep the first, the middle and the last
    of its calls are made alone, and after the last sweep those of the plan: what the network said there among the rows
    of other steps must be the same. (Rows that a network takes for all may settle at the head of a window, at last.)
    """

    kept: _Kept

    def __init__(
        self, rollout: Rollout, registers: Registers, unrolled: Unrolled, ranks: Ranks, how: SweepSettings
    ) -> None:
        super().__init__(rollout, registers)
        self.unrolled, self.ranks, self.how = unrolled, ranks, how
        self.node_marks = registers["x"].new_zeros(*unrolled.t.shape, 2)

    def execute(self, registers: Registers) -> Registers:
        self.ranks.check_same("x", self.projection(registers["x"]))
        how = self.how
        run = Forward(self.rollout, self.unrolled, self._called, how.window, how.tol, how.memory)
        done = run.run(registers)
        for node in _probed(range(len(run.states))):
            self._check_apart(self._alone(node, run.states[node]), self.node_marks[node])
        self.kept = _Kept(run.states, self.node_marks)
        self._observe(Way.FORWARD, run.sweeps, run.rows)
        # a gradient of the gradient makes the plan's own calls: as the first was made
        self.calls.states = self.calls.states[:1] * len(self.unrolled)
        return done

    def _called(self, rows: Rows, states: Tensor) -> Tensor:
        """What the network says of each row, (K, outs, ...)."""
        low, high = (0, 0) if self.calls else (int(rows.node[0]), int(rows.node[-1]) + 1)
        # of the first sweep, which has the rows of all samples
        alone = {node: self._alone(node, states[rows.node == node]) for node in _probed(range(low, high))[:1]}
        mine, own = self.ranks.mine(rows), states[self.ranks.rank :: self.ranks.size]
        out = self.unrolled.no_outs(0).flatten(0, 1)
        if len(own):
            with self._on(mine):
                said = self.evaluate(self.unrolled.call(mine, self.first + len(self.calls)), own)
            self._check_path()
            out = self.unrolled.by_row(said)
        out = self.ranks.gathered(out, len(rows.node))
        marks = self.projection(self.unrolled.as_called(out))
        for node in _probed(range(low, high)):
            there = rows.node == node
            self._check_apart(
                alone[node] if node in alone else self._alone(node, states[there]), marks[there]
            )
        self.node_marks[rows.node, rows.sample] = marks
        return out

    def _alone(self, node: int, states: Tensor) -> Tensor:
        """The marks of one call of the plan. Raises ValueError where the network cannot be called on several steps at
        once, or cannot be trusted to say the same then. The first that is made is the tape's first call.
        """
        call, evaluate = self.unrolled.calls[node], self.rollout.evaluate if self.calls else self.evaluate
        scheduled = [leaf.values for leaf in tree_leaves(self.rollout.cond) if isinstance(leaf, PerStep)]
        reads = Reads([states, call.t, *scheduled])
        with reads.watching():
            marks = self.projection(evaluate(call, states))
        if self.calls.states[0].random:
            raise ValueError(
                "Parallel: got a network that draws random numbers (dropout?), expected none: a call on many steps "
                "draws others than the calls one by one; call eval(), or use Checkpoint()"
            )
        if reads.count:
            raise ValueError(
                "Parallel: got a network that reads numbers out of x or t (`if t[0] > ...`, item()?), expected none: a "
                "batched call has rows of several steps, and all would go one way; decide row by row (torch.where), or "
                "use Checkpoint()"
            )
        return marks

    def _check_apart(self, alone: Tensor, together: Tensor) -> None:
        there = alone.isfinite().all(1)  # of the others nothing can be said, and somebody else will
        if not drift(alone[there], together[there], self.allowed()) <= 1:
            raise ValueError(
                "Parallel: got another output of the network for the rows of several steps at once than for one step "
                "alone, expected the same: it mixes the samples of a batch, takes one t for all, keeps something from "
                "call to call, or has cond without a batch axis that does not broadcast; give cond as (B, ...), or use "
                "Checkpoint()"
            )

    def keeps(self, call: Call) -> bool:
        """One batched call is looked at too, whatever the network: the replays are held to its extent."""
        return self.seen_through and len(self.calls) == 1

    def record(self, call: Call, state: Tensor, out: Tensor, live: LiveCall | None) -> None:
        """Nothing: the last states at each node are kept."""

    def _check_path(self) -> None:
        first, latest = self.reached[1], self.reached[-1]
        if latest.edges is not None and latest != first:
            raise RuntimeError(
                "Parallel: got a network that took another path in a later call, expected one path at all times and in "
                "every call (a counter, random numbers of its own?); use Direct()"
            )

    @contextmanager
    def _on(self, rows: Rows) -> Iterator[None]:
        """Network calls are of `rows`."""
        whole = self.rollout
        self.rollout = on_rows(whole, rows, len(self.unrolled.like))
        try:
            yield
        finally:
            self.rollout = whole

    def pull(self, kept: _Kept, end: Tensor, into: Sensitivity) -> Registers:
        program, cotangents = self.rollout.program, {"x": end}
        scratch, network = self.sums((), dict(into.jumps)), self.sums(into.wanted, {})
        sweeps = work = 0
        for low, high, nodes in self._windows():
            back = Backward(part(program, low, high), self.unrolled, nodes, self.how.memory)
            rows = self.unrolled.rows_of(nodes)
            if len(rows.node):
                graph = WindowGraph(self._replayed(rows, kept), self.unrolled, self.ranks, rows)
                now = back.settle(cotangents, graph, scratch, self.how.tol, self.how.backward_sweeps)
                graph.add(now, network)
            sweeps, work = sweeps + back.sweeps, work + back.sweeps * len(rows.node)
            cotangents = back.walk(cotangents, into)
        entered = network.rollout.arguments() | network.shared
        shared = {name: entered[name] for name in (*network.shared, *(f"cond[{k}]" for k in network.cond))}
        into.sums.update(self.ranks.summed(network.sums, shared))
        self._observe(Way.BACKWARD, sweeps, work)
        return cotangents

    def _replayed(self, rows: Rows, kept: _Kept) -> LiveCall | None:
        """This process's rows of one window with their graph; None where it has none."""
        mine = self.ranks.mine(rows)
        if not len(mine.node):
            return None
        at = mine.node, mine.sample
        with self._on(mine), self.calls.states[0].restored():
            call = self.unrolled.call(mine, self.first)
            live = replay(self.rollout, call, kept.states[at], self.inputs, self.reached[1])
        if not drift(kept.marks[at], self.projection(live.out), self.allowed()) <= 1:
            raise not_repeated(f"the network at step {call.step} and after it")
        return live

    def replays(self) -> Replays:
        """Of a gradient of the gradient, which makes the plan's own calls, at states that differ by `tol`: the sample
        alone is compared.
        """
        return Replays((), self.first, self.projection, self.allowed())

    def _windows(self) -> Iterator[tuple[int, int, range]]:
        """From the end: (first step, step behind the last, nodes) of windows of whole steps."""
        ops, calls = self.rollout.program.ops, Counter(call.step for call in self.unrolled.calls)
        high, top = ops[-1].step + 1, len(self.unrolled)
        while high > ops[0].step:
            low, bottom = high - 1, top - calls[high - 1]
            while low > ops[0].step and top - bottom + calls[low - 1] <= self.how.window:
                low, bottom = low - 1, bottom - calls[low - 1]
            yield low, high, range(bottom, top)
            high, top = low, bottom

    def _observe(self, way: Way, sweeps: int, rows: int) -> None:
        if self.how.observe is not None:
            self.how.observe(Swept(way, sweeps, rows))


def _probed(nodes: range) -> list[int]:
    """The first, the middle and the last."""
    return sorted({nodes[0], nodes[len(nodes) // 2], nodes[-1]}) if nodes else []
