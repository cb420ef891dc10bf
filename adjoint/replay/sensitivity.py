"""Gradients of one run, added up call by call: what every hand-written backward pass has in common."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from ...solvers import Call, GivenNoise
from ...solvers.linear_map import Value
from .cond import leaves
from .live_call import CallGradients, LiveCall
from .rollout import Rollout


class Sensitivity:
    """The gradients of one backward pass at everything but the state, by name, in `sums`.

    Args:
        rollout: the run.
        shared: parameters and captured leaves that require grad, by name.
        wanted: names of what a gradient is asked for in this pass, among all that enters. No others are made.
        jumps: the loss's own gradients at the states that steps open with.
    """

    def __init__(
        self,
        rollout: Rollout,
        shared: Mapping[str, Tensor],
        wanted: Collection[str],
        jumps: Mapping[int, Tensor],
    ) -> None:
        self.rollout, self.wanted, self.jumps = rollout, wanted, jumps
        self.shared = {name: value for name, value in shared.items() if name in wanted}
        self.cond = {place for place in range(len(leaves(rollout.cond))) if f"cond[{place}]" in wanted}
        self.sums: dict[str, Tensor] = {}

    def vjp(self, call: Call, live: LiveCall, cotangent: Tensor) -> Tensor | None:
        """The cotangent of the call's state; the other gradients are added to the sums."""
        try:
            found = live.vjp(cotangent, self.shared, self.cond)
        except RuntimeError as error:
            if "graph a second time" in str(error):
                raise _used_up(call) from error
            raise
        if found is None:
            return None
        self.add_call(call.step, found)
        return found.state

    def add_call(self, step: int, found: CallGradients) -> None:
        """Add what one call of `step` leaves at conditioning, parameters and captured leaves; `found` is used up."""
        for alias, grad in found.cond:
            self.add(f"cond[{alias.leaf}]", grad, step if alias.scheduled else None)
        # one pass over the parameters that have a sum already: there may be hundreds
        there = {name: grad for name, grad in found.shared.items() if grad is not None and name in self.sums}
        if there:
            sums = [self.sums[name] for name in there]
            torch._foreach_add_(sums, list(there.values()))  # pyright: ignore[reportPrivateImportUsage]
        for name in [name for name in found.shared if name not in there]:
            self.add(
                name, found.shared.pop(name)
            )  # copied one at a time: all twice may be more than an activation

    def noise(self, slot: int, cotangent: Tensor, c: Value) -> None:
        """The draw of `slot` entered with coefficient c."""
        source = self.rollout.noise
        if isinstance(source, GivenNoise) and "noise" in self.wanted:
            self.add("noise", cotangent * c, slot)

    def opened(self, step: int, cotangent: Tensor) -> None:
        """The control of `step` was added to the state."""
        if "controls" in self.wanted:
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
                self.sums[name] = torch.zeros_like(self.rollout.arguments()[name])
            self.sums[name][row] += grad
        elif name in self.sums:
            self.sums[name] += grad
        else:
            self.sums[name] = grad.clone()


def _used_up(call: Call) -> RuntimeError:
    """Where a call uses what another call has computed, and that one's graph is gone."""
    return RuntimeError(
        f"network call {call.index} of step {call.step}: got, in its replay, features whose graph another call has "
        "used up (a memo?), expected each call to compute what it uses; clear the memo before each call, pass "
        "what it holds in cond, or use Direct()"
    )
