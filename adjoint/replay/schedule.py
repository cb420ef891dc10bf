"""Keep: what a checkpointed run keeps, chosen from a memory budget, and stated.

Of a long run some steps' openings are kept (snapshots). The backward pass goes from the last part between two
of them to the first: it runs a part again from its snapshot to have the states of its calls, at once where it
is short (a leaf), by recursion where it is not.
"""

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
        run_and_replays = self.calls + self.calls - self.activations
        bounds = (0, *self.snapshots, self.steps)
        # the parts before part k hold k snapshots while it is being reversed
        again = sum(
            reruns(high - low, self.slots - k, self.leaf)
            for k, (low, high) in enumerate(zip(bounds, bounds[1:], strict=False))
        )
        # the states of the last leaf are there from the forward pass
        there = min(self.leaf, self.steps - bounds[-2])
        return run_and_replays + again - there

    @property
    def nested(self) -> int:
        """Most snapshots that the backward pass holds besides those that the forward pass left."""
        bounds = (0, *self.snapshots, self.steps)
        return max(
            _depth(high - low, self.slots - k, self.leaf)
            for k, (low, high) in enumerate(zip(bounds, bounds[1:], strict=False))
        )

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
    if slots < 1:  # each leaf is reached from the one snapshot there is
        return sum(range(length, 0, -leaf))
    first = split(length, slots)
    return first + reruns(length - first, slots - 1, leaf) + reruns(first, slots, leaf)


def _depth(length: int, slots: int, leaf: int) -> int:
    """Most snapshots held at a time, to come back to the states of `length` steps from one."""
    if length <= leaf or slots < 1:
        return 0
    first = split(length, slots)
    return max(1 + _depth(length - first, slots - 1, leaf), _depth(first, slots, leaf))


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
        state: bytes of one state.
        held: bytes of the registers alive when a step opens.
        activation: bytes of one call's activations.
        budget: None for no limit: every state, or with `recursive` log2 N snapshots.
        recursive: whether parts may be run again more than once.

    Raises:
        ValueError: a budget that not even recursion, or the square root without it, can keep; the least one
            is named.
    """
    if budget is None:
        slots = max(1, math.ceil(math.log2(max(steps, 2))))
        return _recursion(calls, steps, slots) if recursive else _every_state(calls, steps, 0)
    if calls * state + activation <= budget:
        spare = (budget - calls * state) // max(activation, 1) - 1
        return _every_state(calls, steps, max(0, min(calls, spare)))
    per_step = state * math.ceil(calls / steps)
    # snapshots every `leaf` steps take held * steps / leaf bytes, a leaf's states per_step * leaf: least at
    # the square root of their quotient, so the lengths near it come first
    for leaf in sorted(
        range(1, steps + 1), key=lambda n: abs(n - math.sqrt(steps * held / max(per_step, 1)))
    ):
        count = math.ceil(steps / leaf) - 1
        if count * held + leaf * per_step + activation <= budget:
            return Keep(calls, steps, tuple(range(leaf, steps, leaf)), leaf, count, 0)
    slots = (budget - activation - per_step) // max(held, 1)
    if recursive and slots >= 1:
        return _recursion(calls, steps, slots)
    if recursive:
        least = activation + per_step + held
    else:
        least = activation + math.ceil(2 * math.sqrt(steps * held * per_step))
    raise ValueError(
        f"Checkpoint: got memory_budget={budget} bytes, expected at least {least} (one call's activations "
        f"take {activation}, one step's registers {held}); raise it, set offload=True"
        f"{'' if recursive else ', or recursive=True'}"
    )


def _every_state(calls: int, steps: int, activations: int) -> Keep:
    return Keep(calls, steps, snapshots=(), leaf=steps, slots=0, activations=activations)


def _recursion(calls: int, steps: int, slots: int) -> Keep:
    return Keep(calls, steps, positions(steps, slots, 1), leaf=1, slots=slots, activations=0)
