"""LiveCall: one network call with its graph, cut off from the rest of the run."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..solvers import Call
from ..solvers.loop import predict
from .cond import Alias, aliased
from .graph_walk import Strangers, sequence_number, strangers
from .rollout import Rollout


@dataclass(frozen=True, eq=False)
class LiveCall:
    """A network call with its graph: `out` as a function of `state`, of conditioning, and of what all calls share.

    Attributes:
        out: the prediction.
        state: detached from the run's.
        aliases: detached copies of the conditioning that requires grad.
        since: the sequence number that its graph begins at.
    """

    out: Tensor
    state: Tensor
    aliases: list[Alias]
    since: int

    def strangers(self, shared: Mapping[str, Tensor]) -> Strangers:
        """What it reached besides state, conditioning and the tensors in `shared`."""
        known = [self.state, *(alias.tensor for alias in self.aliases), *shared.values()]
        return strangers(self.out, known, self.since)

    def vjp(self, cotangent: Tensor, shared: Mapping[str, Tensor]) -> "CallGradients | None":
        """Pull the cotangent of `out` back; None where nothing requires grad. The graph is gone after that."""
        if not self.out.requires_grad:
            return None
        targets = [self.state, *(alias.tensor for alias in self.aliases), *shared.values()]
        found = torch.autograd.grad(self.out, targets, cotangent.to(self.out), allow_unused=True)
        state, rest = found[0], found[1:]
        n = len(self.aliases)
        return CallGradients(
            state, list(zip(self.aliases, rest[:n], strict=True)), dict(zip(shared, rest[n:], strict=True))
        )


@dataclass(frozen=True, eq=False)
class CallGradients:
    """Cotangents of what went into one network call; None where it did not enter."""

    state: Tensor | None
    cond: list[tuple[Alias, Tensor | None]]
    shared: dict[str, Tensor | None]


def live_call(rollout: Rollout, call: Call, state: Tensor) -> LiveCall:
    """Make `call` with a graph from detached inputs. Needs grad mode."""
    since, state = sequence_number(), state.detach().requires_grad_()
    cond, aliases = aliased(rollout.cond, call.step)
    return LiveCall(predict(rollout.model, call, state, cond), state, aliases, since)


def replay(rollout: Rollout, call: Call, state: Tensor, shared: Mapping[str, Tensor]) -> LiveCall:
    """As `live_call`, for any call but the first of a run.

    Raises:
        RuntimeError: where it reaches a tensor that the first call did not: its gradient would be lost.
    """
    live = live_call(rollout, call, state)
    unknown = live.strangers(shared)
    if unknown:
        raise unknown.error(call)
    return live
