"""What a checkpointed run keeps: chosen from a memory budget, and stated."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Keep:
    """A choice for a run of `steps` steps and `calls` network calls.

    Attributes:
        snapshots: steps at whose opening all registers are kept; the entry is kept anyway.
        leaf: most steps between two snapshots whose states are recorded at once in the backward pass.
        slots: snapshots that the backward pass may hold at one time.
        activations: last calls whose activations are kept, which are not replayed.
        forwards: network calls of value and gradient, for plans with one call a step.
    """

    calls: int
    steps: int
    snapshots: tuple[int, ...]
    leaf: int
    slots: int
    activations: int

    @property
    def forwards(self) -> int:
        runs = self.calls + self.calls - self.activations
        bounds = (0, *self.snapshots, self.steps)
        parts = enumerate(zip(bounds, bounds[1:], strict=False))
        again = [reruns(high - low, self.slots - k, self.leaf) for k, (low, high) in parts]
        return runs + sum(again) - (min(self.leaf, self.steps - bounds[-2]) if self.steps > 1 else 0)

    def __str__(self) -> str:
        states = f"the states of {len(self.snapshots) + 1} steps" if self.leaf < self.steps else "every state"
        return (
            f"keeps {states} and the activations of the last {self.activations} of {self.calls} network "
            f"calls: about {self.forwards} calls forward for a value and a gradient"
        )


def split(length: int, slots: int) -> int:
    """How many steps to run before the next snapshot: the binomial schedule, which needs the fewest reruns.

    With c = slots + 1 (the start is one) and r such that C(c + r, c) >= length, at most C(c + r - 1, c) steps
    before are run r - 1 times more and at most C(c + r - 1, c - 1) after them r times. Source: Griewank and
    Walther 2000, ACM TOMS 26(1), algorithm 799 (revolve).
    """
    c, r = slots + 1, 1
    while math.comb(c + r, c) < length:
        r += 1
    least = math.comb(c + r - 2, c) if r > 1 else 1
    return max(1, min(length - 1, max(length - math.comb(c + r - 1, c - 1), least)))


def reruns(length: int, slots: int, leaf: int) -> int:
    """Steps run without a graph, to come back to states, for `length` steps from a snapshot."""
    if length <= leaf:
        return length
    if slots < 1:  # from the snapshot again and again
        return leaf_sums(length, leaf)
    first = split(length, slots)
    return first + reruns(length - first, slots - 1, leaf) + reruns(first, slots, leaf)


def leaf_sums(length: int, leaf: int) -> int:
    """Steps run if each leaf is reached from the one snapshot there is."""
    total, rest = 0, length
    while rest > 0:
        total, rest = total + rest, rest - leaf
    return total


def positions(steps: int, slots: int, leaf: int) -> tuple[int, ...]:
    """Where the forward pass takes its snapshots under the binomial schedule."""
    found, low = [], 0
    while slots > 0 and steps - low > leaf:
        low += split(steps - low, slots)
        found.append(low)
        slots -= 1
    return tuple(found)


def choose(
    calls: int, steps: int, state: int, held: int, activation: int, budget: int | None, recursive: bool
) -> Keep:
    """The fastest choice within `budget` bytes.

    Args:
        state: bytes of one state. held: bytes of the registers alive when a step opens. activation: bytes of
            one call's.

    Raises:
        ValueError: a budget that not even recursion, or the square root without it, can keep; the least one
            is named.
    """
    if budget is None:
        slots = max(1, math.ceil(math.log2(max(steps, 2)))) if recursive else 0
        return (
            Keep(calls, steps, positions(steps, slots, 1), 1, slots, 0)
            if recursive
            else Keep(calls, steps, (), steps, 0, 0)
        )
    if calls * state + activation <= budget:
        spare = (budget - calls * state) // max(activation, 1) - 1
        return Keep(calls, steps, (), steps, 0, max(0, min(calls, spare)))
    per_step = state * math.ceil(calls / steps)
    for leaf in sorted(range(1, steps + 1), key=lambda n: abs(n - math.sqrt(steps * held / per_step))):
        count = math.ceil(steps / leaf) - 1
        if count * held + leaf * per_step + activation <= budget:
            return Keep(calls, steps, tuple(range(leaf, steps, leaf)), leaf, count, 0)
    slots = (budget - activation - per_step) // max(held, 1)
    if recursive and slots >= 1:
        return Keep(calls, steps, positions(steps, slots, 1), 1, slots, 0)
    least = (
        activation + per_step + held
        if recursive
        else activation + math.ceil(2 * math.sqrt(steps * held * per_step))
    )
    raise ValueError(
        f"Checkpoint: got memory_budget={budget} bytes, expected at least {least} (one call's activations "
        f"take {activation}, one step's registers {held}); raise it, set offload=True"
        f"{'' if recursive else ', or recursive=True'}"
    )
