"""Outlook: what each exact strategy would take of one run, from a call's cost and the plan."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..replay.schedule import Keep, choose
from ..strategies.checkpoint import Checkpoint, Mechanism
from ..strategies.direct import Direct
from ..strategies.gradient import Gradient
from ..strategies.reversible import Reversible
from .call_cost import CallCost
from .forecast import Forecast
from .own_cost import OwnCost


@dataclass(frozen=True)
class Outlook:
    """A run of N network calls, each of which takes F seconds forward, G with a graph and V for its VJP.

    `Direct` takes N (G + V), `Checkpoint` N F more, for the replays (N G more if the network cannot be seen through),
    and `OwnCost` comes on top of each. The peak is that of the backward pass, when all that is kept is there and one
    VJP is under way; its small change (registers, cotangents) is counted in states and was fitted, once, on networks
    from 3 to 6144 numbers a sample (tests/adjoint/test_auto.py holds it to 10 %).

    Attributes:
        calls, steps: of the program.
        held: most registers alive at a time. carried: of them when a step opens, on average.
        state, mark: bytes of a state, and of what a tape keeps of an output to compare it by.
        entry: bytes of the registers on entry.
        wide: bytes of a state in float64.
        cost: of one call.
        own: of the rest.
        obstacle: why one node around the run would be wrong, and `one_way` why the plan cannot be inverted; "" if not.
        offloads: whether states can go to another device's memory than the network's.
    """

    calls: int
    steps: int
    held: int
    carried: float
    state: int
    mark: int
    entry: int
    wide: int
    cost: CallCost
    own: OwnCost
    obstacle: str = ""
    one_way: str = ""
    offloads: bool = False

    @property
    def exact(self) -> float:
        """Seconds that no exact strategy can save: every call with a graph, and its VJP."""
        return self.calls * (self.cost.graph + self.cost.vjp)

    @property
    def again(self) -> float:
        """Seconds of a call in the forward pass of a tape."""
        return self.cost.forward if self.cost.seen_through else self.cost.graph

    def forecasts(self, memory: int | None) -> Iterator[Forecast]:
        """Of every exact strategy; those that take a budget are given `memory`, less what they do not count."""
        yield self.direct()
        if self.obstacle:
            yield self.regions()
        else:
            yield self.every_state()
            if memory is not None and (within := self.within(memory)):
                yield within
            yield self.kept(self.keep(None), Checkpoint(recursive=True))
        yield self.offloaded()
        yield self.reversible()

    def direct(self) -> Forecast:
        cost, more = self.cost, 2 * self.state
        memory = cost.pair + (self.calls - 2) * cost.saved if self.calls > 1 else cost.pulling
        seconds = self.exact + self.own.direct.of(self.calls)
        return Forecast(Direct(), seconds, memory + more, self.calls, self.calls)

    def every_state(self) -> Forecast:
        return self.kept(Keep(self.calls, self.steps, (), self.steps, 0, 0), Checkpoint())

    def regions(self) -> Forecast:
        cost = self.cost
        memory = self.calls * (self.state + self.mark) + cost.holding - cost.saved - cost.state
        seconds = self.exact + self.calls * cost.graph + self.own.regions.of(self.calls)
        return Forecast(Checkpoint(mechanism=Mechanism.REGION), seconds, memory, 2 * self.calls, self.calls)

    def kept(self, keep: Keep, strategy: Gradient) -> Forecast:
        """Of a tape that keeps what `keep` says."""
        cost, whole = self.cost, keep.leaf >= self.steps
        activations = min(keep.activations, self.calls - 1)  # the first call is replayed whatever is kept
        reruns = (keep.forwards - 2 * keep.calls + keep.activations) * self.calls / self.steps
        seconds = (
            self.exact
            + (self.calls - activations) * self.again
            + self.own.recorded.of(self.calls)
            + reruns * (cost.graph + self.own.loop.each)
        )
        # what the forward pass left stays until the backward pass is over: autograd holds it
        leaf = self.calls if whole else -(-self.calls * keep.leaf // self.steps)
        left = leaf + len(keep.snapshots) * self.carried
        again = 0 if whole else leaf + keep.nested * self.carried
        registers = min(self.held, 3) + 1  # and cotangents, while a call is differentiated
        # of each call that is kept: activations, but for the state, which is there anyway, and the output
        each, pull = cost.saved - cost.state + self.state, cost.pulling - cost.saved
        peaks = [cost.pulling + cost.gradients]  # of a replay
        if activations:
            peaks += [activations * each + pull, (activations - 1) * each + pull + cost.gradients]
        differentiating = round(left + again + registers) * self.state + max(peaks)
        # in the end all outputs are compared, by marks alone
        comparing = round(left + 2) * self.state + 3 * self.calls * self.mark + cost.gradients
        memory = max(differentiating, comparing) + 2 * self.calls * self.mark
        calls = round(2 * self.calls - activations + reruns)
        return Forecast(strategy, seconds, memory, calls, self.calls)

    def keep(self, budget: int | None) -> Keep:
        """What `Checkpoint(memory_budget=budget, recursive=True)` chooses. Raises ValueError."""
        return choose(self.calls, self.steps, self.state, self.entry, self.cost.activation, budget, True)

    def within(self, memory: int) -> Forecast | None:
        """Of a budgeted `Checkpoint` whose whole peak stays below `memory`; None if there is none.

        Its budget is for states and activations. What is left for them is found by asking: a budget less what was too
        much, until nothing is.
        """
        budget = memory
        while budget > 0:
            try:
                found = self.kept(self.keep(budget), Checkpoint(memory_budget=budget, recursive=True))
            except ValueError:
                return None
            assert found.memory is not None
            if found.memory <= memory:
                return found
            budget -= found.memory - memory
        return None

    def offloaded(self) -> Forecast:
        plain, own = (
            (self.regions(), self.own.regions) if self.obstacle else (self.every_state(), self.own.recorded)
        )
        strategy = Checkpoint(offload=True)
        if not self.offloads:
            return _impossible(strategy, plain, "the states are in the host's memory already")
        assert plain.memory is not None
        seconds = plain.seconds + self.own.offloaded.of(self.calls) - own.of(self.calls)
        return replace(
            plain, strategy=strategy, seconds=seconds, memory=plain.memory - self.calls * self.state
        )

    def reversible(self) -> Forecast:
        cost, strategy = self.cost, Reversible()
        if self.one_way or self.obstacle:
            return _impossible(strategy, self.direct(), self.one_way or self.obstacle)
        memory = cost.pulling + cost.gradients + 2 * (self.held * self.wide + self.state)
        seconds = self.exact + self.calls * self.again + self.own.reversible.of(self.calls)
        return Forecast(strategy, seconds, memory, 2 * self.calls, self.calls)


def _impossible(strategy: Gradient, like: Forecast, why: str) -> Forecast:
    return Forecast(strategy, math.inf, None, 2 * like.calls, like.vjps, why)
