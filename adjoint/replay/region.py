"""Region: one network call whose activations are dropped and recomputed in the backward pass.

The call runs under its own `saved_tensors_hooks`. Packing a tensor keeps only its number; the first unpack of
the backward pass replays the call on the kept state and hands out the replay's tensors one by one. Autograd
does the rest, so captured tensors with a graph of their own, FSDP and double backward behave as in the plain
loop. The graph's nodes stay: about 0.4 MiB a call for a network of 1 M parameters.
"""

import weakref
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from ...solvers import Call, Model
from .call_state import CallState
from .fingerprint import Projection, check_repeated, tolerance
from .rollout import Rollout
from .snapshot import Snapshot, check_initialised
from .turns import Turns


class Live:
    """The region whose replay is alive: at most one per run, so that memory holds one activation.

    A backward pass to some inputs only never asks for some of a replay's tensors; without this they would
    pile up.
    """

    def __init__(self) -> None:
        # weak: a cycle with the region would keep an activation until the garbage collector comes by, and it
        # counts objects
        self.region: weakref.ref[Region] | None = None
        self.task = -1

    def begins(self) -> bool:
        """Whether this is the first replay of the backward pass under way."""
        before, self.task = self.task, torch._C._current_graph_task_id()
        return self.task == -1 or self.task != before

    def enter(self, region: "Region") -> None:
        before = None if self.region is None else self.region()
        if before is not None and before is not region:
            before.saved = []
        self.region = weakref.ref(region)


class Region:
    """A single call `fn(state)`, run once now and once more for each backward pass over it."""

    def __init__(self, fn: Callable[[Tensor], Tensor], name: str, run: "Regions") -> None:
        self.fn, self.name, self.run = fn, name, run
        self.task = -1  # the backward pass that the saved tensors were replayed for
        self.count = -1  # unknown until the call has returned
        self.saved: list[Tensor] = []
        self.fetched: set[int] = set()
        self.leaves: list[tuple[Tensor, int]] = []

    def __call__(self, state: Tensor) -> Tensor:
        self.device, self.requires_grad, self.version = state.device, state.requires_grad, state._version
        self.kept = state.detach().to("cpu") if self.run.offload else state.detach()
        self.around = CallState(state.device, self.run.turns)
        with saved_tensors_hooks(self._count, self._fetch):
            out = self.fn(state)
        self.around.seal()
        self.mark = self.run.mark(out)
        self.count, self.saved, self.fetched = len(self.saved), [], set()
        return out

    def _count(self, tensor: Tensor) -> int:
        # a linear layer saves a view of its weight: the base is the leaf, and both share one version counter
        leaf = tensor if tensor._base is None else tensor._base
        if leaf.is_leaf and leaf.requires_grad:
            self.leaves.append((leaf, leaf._version))
        # held until the call returns: a network may differentiate inside (an energy's score, a classifier's
        # gradient). Detached: a node that holds its own output never dies
        self.saved.append(tensor.detach())
        return len(self.saved) - 1

    def _fetch(self, index: int) -> Tensor:
        if self.count < 0:  # the network differentiates inside: the call has not returned yet
            return self.saved[index]
        # another backward pass (the first was partial, with retain_graph) looks again at what may have changed
        task = torch._C._current_graph_task_id()
        if not self.saved or task != self.task:
            self._replay()
            self.task = task
        tensor = self.saved[index]
        self.fetched.add(index)
        if len(self.fetched) == self.count:
            self.saved = []
        return tensor

    def _replay(self) -> None:
        if self.run.live.begins():
            self.run.snapshot.check()
        if not self.run.offload and self.kept._version != self.version:
            raise RuntimeError(
                f"{self.name}: the state was changed in place after the forward pass; expected it untouched "
                "until backward; clone it before writing to it"
            )
        for leaf, version in self.leaves:  # captured ones; the snapshot knows the declared
            if leaf._version != version:
                raise RuntimeError(
                    f"{self.name}: a captured tensor {tuple(leaf.shape)} was changed in place between "
                    f"forward and backward (version {version} then, {leaf._version} now), expected it as "
                    "the run read it; call backward first"
                )
        saved: list[Tensor] = []

        def keep(tensor: Tensor) -> int:
            saved.append(tensor.detach())
            return len(saved) - 1

        state = self.kept.to(self.device).detach().requires_grad_(self.requires_grad)
        with self.around.restored(), saved_tensors_hooks(keep, saved.__getitem__):
            out = self.fn(state)
        if len(saved) != self.count:
            raise RuntimeError(
                f"{self.name}: the replay saved {len(saved)} tensors, expected {self.count}; the network "
                "took another path than in the forward pass; make it deterministic or use Direct()"
            )
        check_repeated(self.name, self.mark, self.run.mark(out), self.run.allowed)
        self.run.live.enter(self)
        self.saved, self.fetched = saved, set()


class Regions:
    """The regions of one run, which keep states only, on the CPU if `offload`.

    Args:
        declared: all that is known to enter `model` besides states, by name.
    """

    def __init__(self, model: Model, declared: Mapping[str, Tensor], offload: bool) -> None:
        self.offload = offload
        check_initialised(model, declared)
        self.live, self.snapshot = Live(), Snapshot(model, declared)
        self.tensors, self.turns = list(declared.values()), Turns()
        self.projection: Projection | None = None

    def __call__(self, fn: Callable[[Tensor], Tensor], name: str, state: Tensor) -> Tensor:
        """fn(state) as one region; `name` is what errors call it."""
        if self.projection is None:
            autocast = (
                torch.is_autocast_enabled(state.device.type),
                torch.get_autocast_dtype(state.device.type),
            )
            self.projection, self.allowed = (
                Projection(state.detach()),
                tolerance([state, *self.tensors], [autocast]),
            )
        region = Region(fn, name, self)
        if not self.turns.draws:
            return region(state)
        with self.turns.taken():
            return region(state)

    def evaluate(self, rollout: Rollout) -> Callable[[Call, Tensor], Tensor]:
        """A stand-in for the rollout's network call."""
        return lambda call, state: self(
            lambda x: rollout.evaluate(call, x), f"network call {call.index} of step {call.step}", state
        )

    def mark(self, out: Tensor) -> Tensor:
        """Two numbers of each sample."""
        assert self.projection is not None
        return self.projection(out)

    def check(self) -> None:
        """Raise RuntimeError where the calls so far wrote to a buffer of the network."""
        self.snapshot.check_buffers("by the forward pass")
