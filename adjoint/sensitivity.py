"""Gradients of one run, added up call by call: what every hand-written backward pass has in common."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..solvers import Call, GivenNoise
from ..solvers.program import Value
from .cond import local
from .leaves import now, undeclared
from .rollout import Rollout


@dataclass(frozen=True, eq=False)
class Replay:
    """A network call with its graph: `out` as a function of `state`, `aliases` of conditioning, and shared leaves."""

    out: Tensor
    state: Tensor
    aliases: list[tuple[int, Tensor, bool]]


class Sensitivity:
    """VJPs of network calls, and the sums they leave at everything but the state.

    Args:
        rollout: the run.
        shared: parameters and captured leaves that require grad, by name.
    """

    def __init__(self, rollout: Rollout, shared: dict[str, Tensor]) -> None:
        self.rollout, self.shared = rollout, shared
        self.sums: dict[str, Tensor] = {}
        self.jumps: dict[int, Tensor] = {}

    def call(self, call: Call, state: Tensor) -> tuple[Replay, int]:
        """The network call with a graph from detached inputs, and the sequence number it starts at. Needs grad mode."""
        start, leaf = now(), state.detach().requires_grad_()
        cond, aliases = local(self.rollout.cond, call.step)
        out = replace(self.rollout, cond=cond, scheduled=False).evaluate(call, leaf)
        return Replay(out, leaf, aliases), start

    def strangers(self, replay: Replay, start: int) -> tuple[list[Tensor], bool]:
        """Leaves that the call reached and nobody declared, and whether it reached a graph from before `start`."""
        known = [replay.state, *(alias for _, alias, _ in replay.aliases), *self.shared.values()]
        return undeclared(replay.out, known, start)

    def replay(self, call: Call, state: Tensor) -> Replay:
        """The call once more; raises RuntimeError where it reached a tensor that the first call did not."""
        replay, start = self.call(call, state)
        found, captured = self.strangers(replay, start)
        if found or captured:
            what = f"a leaf of shape {tuple(found[0].shape)}" if found else "a tensor with a graph of its own"
            raise late(call, what)
        return replay

    def back(self, call: Call, replay: Replay, cotangent: Tensor) -> Tensor | None:
        """The VJP of a replayed call."""
        if not replay.out.requires_grad:
            return None
        targets = [replay.state, *(alias for _, alias, _ in replay.aliases), *self.shared.values()]
        grads = torch.autograd.grad(replay.out, targets, cotangent.to(replay.out), allow_unused=True)
        rest = iter(grads[1:])
        for (k, _, scheduled), grad in zip(replay.aliases, rest, strict=False):
            self.add(f"cond[{k}]", grad, call.step if scheduled else None)
        self.add_all(dict(zip(self.shared, grads[1 + len(replay.aliases) :], strict=True)))
        return grads[0]

    def add_all(self, grads: dict[str, Tensor | None]) -> None:
        """sums[name] += grad for each, in one pass over those there are."""
        there = {name: grad for name, grad in grads.items() if grad is not None and name in self.sums}
        if there:
            torch._foreach_add_([self.sums[name] for name in there], list(there.values()))  # pyright: ignore[reportPrivateImportUsage]
        for name, grad in grads.items():
            if name not in there:
                self.add(name, grad)

    def noise(self, slot: int, cotangent: Tensor, c: Value) -> None:
        """The draw of `slot` entered with coefficient c."""
        source = self.rollout.noise
        if isinstance(source, GivenNoise) and source.values.requires_grad:
            self.add("noise", cotangent * c, slot)

    def opened(self, step: int, cotangent: Tensor) -> None:
        """The control of `step` was added to the state."""
        if self.rollout.controls is not None and self.rollout.controls.requires_grad:
            self.add("controls", cotangent, step)

    def jump(self, step: int) -> Tensor | None:
        """The loss's own gradient at the state that `step` opens with."""
        return self.jumps.get(step)

    def add(self, name: str, grad: Tensor | None, row: int | None = None) -> None:
        """sums[name] (or one row of it) += grad."""
        if grad is None:
            return
        if row is not None:
            if name not in self.sums:
                self.sums[name] = torch.zeros_like(self.rollout.declared()[name])
            self.sums[name][row] += grad
        elif name in self.sums:
            self.sums[name] += grad
        else:
            self.sums[name] = grad.clone()


def late(call: Call, what: str) -> RuntimeError:
    """What to raise where a call reaches what the first one did not."""
    return RuntimeError(
        f"network call {call.index} of step {call.step} reaches {what} the first call did not; expected the "
        "same inputs at every call; register it as a parameter, pass it in cond, or use "
        "Checkpoint(mechanism=Mechanism.REGION)"
    )
