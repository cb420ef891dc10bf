"""LiveCall: one network call with its graph, cut off from the rest of the run."""

from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers import Call
from ...solvers.loop import predict
from .cond import Alias, aliased
from .entrance import Entry, alias
from .graph_walk import Extent, Reach, reach, sequence_number
from .inputs import Inputs
from .rollout import Rollout


@dataclass(frozen=True, eq=False)
class LiveCall:
    """A network call with its graph: `out` as a function of `state`, of conditioning, and of what all calls share.

    Attributes:
        out: the prediction.
        state: in place of the run's.
        aliases: in place of the conditioning that requires grad.
        entry: how they entered, in the forward pass.
        shared_graph: whether its graph may lead into one that other calls use too: a memo that a network keeps.
    """

    out: Tensor
    state: Tensor
    aliases: list[Alias]
    entry: Entry | None = None
    shared_graph: bool = False

    def reach(self, shared: Collection[Tensor], since: int) -> Reach:
        """What it reached, besides state and conditioning."""
        return reach(self.out, shared, since, [self.state, *(alias.tensor for alias in self.aliases)])

    def vjp(
        self, cotangent: Tensor, shared: Mapping[str, Tensor], cond: Collection[int]
    ) -> "CallGradients | None":
        """Pull the cotangent of `out` back to the state, to `shared` and to those of `cond`, by place; None
        where nothing requires grad. The graph is gone after that, unless others may use it too.
        """
        if not self.out.requires_grad:
            return None
        aliases = [alias for alias in self.aliases if alias.leaf in cond]
        targets = [self.state, *(alias.tensor for alias in aliases), *shared.values()]
        with nullcontext() if self.entry is None else self.entry.passing():
            state, *rest = torch.autograd.grad(
                self.out, targets, cotangent.to(self.out), allow_unused=True, retain_graph=self.shared_graph
            )
        n = len(aliases)
        return CallGradients(
            state, list(zip(aliases, rest[:n], strict=True)), dict(zip(shared, rest[n:], strict=True))
        )


@dataclass(frozen=True, eq=False)
class CallGradients:
    """Cotangents of what went into one network call; None where it did not enter."""

    state: Tensor | None
    cond: list[tuple[Alias, Tensor | None]]
    shared: dict[str, Tensor | None]


def live_call(
    rollout: Rollout, call: Call, state: Tensor, enter: Callable[[Tensor], Tensor] = alias
) -> LiveCall:
    """Make `call` with a graph. Needs grad mode. `enter`: what stands in for a tensor that enters."""
    state = enter(state)
    cond, aliases = aliased(rollout.cond, call.step, enter)
    out = predict(rollout.model, call, state, cond)
    return LiveCall(out, state, aliases, enter if isinstance(enter, Entry) else None)


def replay(rollout: Rollout, call: Call, state: Tensor, inputs: Inputs, expected: Extent | None) -> LiveCall:
    """Make `call` once more, from detached leaves.

    Args:
        expected: how much of it was differentiated in the forward pass, if known.

    Raises:
        RuntimeError: where it is less or more now: the gradient would be another.
    """
    since = sequence_number()
    live = live_call(rollout, call, state)
    found = live.reach(inputs.shared.values(), since)
    inputs.check_replayed(call, found, expected)
    return LiveCall(live.out, live.state, live.aliases, None, found.older)
