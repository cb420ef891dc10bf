"""CallCost: what one network call takes at this batch, measured on the run's own state."""

import statistics
import time
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.multiprocessing.reductions import StorageWeakRef

from ...solvers import Call
from ...solvers.loop import predict
from ..replay.call_state import CallState
from ..replay.cond import aliased
from ..replay.entrance import alias
from ..replay.graph_walk import entangled, reach, sequence_number
from ..replay.hooks import hooks_suspended
from ..replay.inputs import Inputs
from ..replay.plain_state import plain_state
from ..replay.rollout import Registers, Rollout
from ..replay.saved import Saved
from ..replay.snapshot import Snapshot
from ..replay.transparent import transparent
from ..replay.turns import Turns
from ..replay.wrappers import hooked_graph
from .memos import Memos
from .peak import Peak

FEWEST, MOST = 3, 15  # rounds
SPREAD = 0.03  # standard error of a round's median, as a share of it, at which no further round is made
SHARE = 0.1  # of the run, that measuring may take past the fewest rounds


@dataclass(frozen=True)
class CallCost:
    """Seconds and bytes of one network call; bytes are the most above those before it.

    Attributes:
        forward, graph, vjp: seconds of a forward pass without a graph, of one with it, and of its VJP.
        passing: bytes of a forward pass without a graph.
        building: of one with a graph.
        pulling: of one with a graph and its VJP.
        pair: of two with graphs, and their VJPs in one sweep, as autograd makes them: gradients at parameters are
            added up as they come.
        holding: the same where autograd frees no graph before the sweep is over.
        saved: what a graph holds, the state included where it saves that.
        state: of that, the state.
        activation: what `Checkpoint(memory_budget=...)` counts of it.
        gradients: of the gradients at parameters and conditioning.
        seen_through: whether later calls of a forward pass need no graph.
        captured: what a node around the run could not have as its input; "" if nothing.
    """

    forward: float
    graph: float
    vjp: float
    passing: int
    building: int
    pulling: int
    pair: int
    holding: int
    saved: int
    state: int
    activation: int
    gradients: int
    seen_through: bool
    captured: str = ""


def measured_call(rollout: Rollout, registers: Registers) -> CallCost:
    """The cost of the first network call of `rollout`, at the state in `registers`.

    The random state, buffers, memos, hooks of tensors and DDP's averaging are left alone. The network's own hooks see
    each call, as they see replays.

    Raises:
        RuntimeError: a network that writes to its buffers, which are put back.
        ValueError: one whose graph does more than differentiate.
    Cost: 5 to 17 forward passes without a graph, 5 more with one, 8 to 20 VJPs.
    """
    measuring = _Measuring(rollout, registers)
    snapshot = Snapshot(rollout.model, measuring.inputs.every())
    try:
        out = measuring.passed()  # whatever a network does only once
        measuring.keeps = measuring.memos.put_back()
        snapshot.check_buffers("by a network call")
        measuring.look(out)
        sizes = measuring.sizes()
        cost = replace(sizes, **dict(zip(("forward", "graph", "vjp"), measuring.seconds(), strict=True)))
        snapshot.check_buffers("by a network call")
    except RuntimeError:
        _put_back(snapshot)
        raise
    finally:
        measuring.memos.put_back()
    return cost


class _Built(NamedTuple):
    """A call with its graph: `edge` leads to its output, `targets` are the state and the conditioning that entered."""

    edge: Any
    targets: list[Tensor]


class _Measuring:
    """One network call, made again and again."""

    def __init__(self, rollout: Rollout, registers: Registers) -> None:
        self.rollout, self.state = rollout, registers["x"].detach()
        calls: list[Call] = list(rollout.program.calls())
        self.call, self.count = calls[0], len(calls)
        # of a network that keeps tensors every call is the first one: another graph's would be in the way
        self.memos, self.keeps = Memos(rollout.model), False
        self.inputs, self.plain = Inputs.of(rollout, registers), plain_state(rollout.model)
        self.around = CallState(
            self.state.device, Turns()
        )  # not sealed: every call draws what the first one does

    def passed(self) -> Tensor:
        """The call without a graph."""
        self.forget()
        with self.around.restored(), torch.no_grad():
            return self.rollout.evaluate(self.call, self.state)

    def forget(self) -> None:
        if self.keeps:
            self.memos.put_back()

    def called(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The call with a graph: output, state that went in, and what stands for state and conditioning."""
        self.forget()
        with self.around.restored():
            cond, aliases = aliased(self.rollout.cond, self.call.step, alias)
            start = alias(self.state)
            # the network sees a copy: a leaf is held by its graph whether or not a layer saves it
            state = start.clone()
            out = predict(self.rollout.model, self.call, state, cond)
        return out, state, [start, *(each.tensor for each in aliases)]

    def built(self) -> _Built:
        """The same, of which only the graph is held."""
        out, _, targets = self.called()
        return _Built(get_gradient_edge(out), targets)

    def pulled(self, *calls: _Built, retain: bool = False) -> list[Tensor]:
        """The VJP of a call, or of several in one sweep."""
        targets = [target for call in calls for target in call.targets]
        with self.around.restored(), hooks_suspended(self.inputs.shared.values()):
            found = torch.autograd.grad(
                [call.edge for call in calls],
                [*targets, *self.inputs.shared.values()],
                [self.cotangent] * len(calls),
                allow_unused=True,
                retain_graph=retain or bool(self.captured),
            )
        return [grad for grad in found if grad is not None]

    def look(self, out: Tensor) -> None:
        """What the network captures, and whether it can be seen through; as a tape looks at its first call."""
        self.cotangent, since = torch.ones_like(out), sequence_number()
        out, state, targets = self.called()
        self.differentiable, known = out.requires_grad, self.inputs.shared.values()
        if around := hooked_graph(out):
            raise ValueError(
                f"Auto: got {around}, around which one call cannot be measured by itself, expected none; take "
                "Checkpoint()"
            )
        found = reach(out, known, since, [state, *targets])
        self.inputs = self.inputs.captured(found.leaves)
        self.captured = "a tensor that the network captures with a graph of its own" if found.older else ""
        if entangled(self.inputs.shared.values()):
            self.captured = "a tensor of the model with a graph of its own that leads to another one of it"
        whole, model = len(found.extent.known) == len(self.inputs.shared), self.rollout.model
        self.seen_through = whole and transparent(model, self.plain, self.rollout.program.plan.functions)

    def sizes(self) -> CallCost:
        """The bytes; no seconds yet."""
        device = self.state.device
        with Peak(device) as ledger:
            self.passed()
            passing = ledger.bytes
        if not self.differentiable:
            return CallCost(0.0, 0.0, 0.0, passing, passing, passing, passing, passing, 0, 0, 0, 0, False)
        saved = Saved()
        with Peak(device) as ledger:
            with saved:
                out, state, targets = self.called()
            building, size = ledger.bytes, state.nbytes
            activation = saved.bytes([state, *self.inputs.every().values()])
            call, place = _Built(get_gradient_edge(out), targets), StorageWeakRef(state.untyped_storage())
            del out, state
            held, kept = ledger.held, 0 if place.expired() else size
            grads = self.pulled(call)
            pulling = ledger.bytes
        gradients = sum(grad.nbytes for grad in grads[1:])
        del grads, call, targets
        sweeps = []
        for retain in (False, True):
            with Peak(device) as ledger:
                self.pulled(self.built(), self.built(), retain=retain)
                sweeps.append(ledger.bytes)
        return CallCost(
            0.0, 0.0, 0.0, passing, building, pulling, sweeps[0], sweeps[1], held, kept, activation, gradients,
            self.seen_through, self.captured,
        )  # fmt: skip

    def seconds(self) -> tuple[float, float, float]:
        """forward, graph, vjp: medians of as many rounds as the machine's noise asks for."""
        rounds: list[tuple[float, float, float]] = []
        while len(rounds) < FEWEST or len(rounds) < MOST and not self.enough([sum(each) for each in rounds]):
            rounds.append(self.timed())
        forward, graph, vjp = (statistics.median(times) for times in zip(*rounds, strict=True))
        return forward, graph, vjp

    def enough(self, rounds: list[float]) -> bool:
        low, middle, high = statistics.quantiles(rounds, n=4)
        error = (high - low) / len(rounds) ** 0.5
        return error < SPREAD * middle or sum(rounds) > SHARE * self.count * middle

    def timed(self) -> tuple[float, float, float]:
        began = clock(self.state.device)
        self.passed()
        passed = clock(self.state.device)
        out, _, targets = self.called()
        built = clock(self.state.device)
        if self.differentiable:
            self.pulled(_Built(get_gradient_edge(out), targets))
        return passed - began, built - passed, clock(self.state.device) - built


def clock(device: torch.device) -> float:
    """Seconds, when all that `device` was given to do is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _put_back(snapshot: Snapshot) -> None:
    """The buffers that a call wrote to, as they were; of large ones no copy was kept."""
    with torch.no_grad():
        for value, _, copy in snapshot.buffers.values():
            if copy is not None and not torch.equal(value, copy):
                value.copy_(copy)
