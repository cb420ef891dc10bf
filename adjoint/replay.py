"""Region: one network call whose activations are dropped and recomputed in the backward pass.

The call runs under its own `saved_tensors_hooks`. Packing a tensor keeps only its number; the first unpack of the
backward pass replays the call on the kept state and hands out the replay's tensors one by one. Autograd does the rest,
so captured tensors, frozen layers, adapters and double backward behave as in the plain loop. Autocast and random state
are put back for the replay, and leaves changed in between are refused: hooks bypass autograd's own version check.
"""

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


class Live:
    """The region whose replay is alive: at most one per run, so that memory holds one activation.

    A backward pass to some inputs only never asks for some of a replay's tensors; without this they would pile up.
    """

    def __init__(self) -> None:
        # weak: a cycle with the region would keep an activation until the garbage collector comes by, and it counts objects
        self.region: weakref.ref[Region] | None = None

    def enter(self, region: "Region") -> None:
        before = None if self.region is None else self.region()
        if before is not None and before is not region:
            before.saved = []
        self.region = weakref.ref(region)


class Region:
    """A single call `fn(state)`, run once now and once more for each backward pass over it."""

    def __init__(self, fn: Callable[[Tensor], Tensor], name: str, live: Live, offload: bool = False) -> None:
        self.fn, self.name, self.live, self.offload = fn, name, live, offload
        self.count = -1  # unknown until the call has returned
        self.saved: list[Tensor] = []
        self.fetched: set[int] = set()
        self.leaves: list[tuple[Tensor, int]] = []

    def __call__(self, state: Tensor) -> Tensor:
        self.device, self.requires_grad, self.version = state.device, state.requires_grad, state._version
        self.original = state.detach()
        self.kept = self.original.to("cpu", non_blocking=False) if self.offload else self.original
        if self.offload and self.kept is not self.original:
            self.original = self.kept
        self.contexts = _autocast(state.device.type)
        before = torch.get_rng_state()
        device_before = torch.cuda.get_rng_state(state.device) if state.is_cuda else None
        with saved_tensors_hooks(self._count, self._fetch):
            out = self.fn(state)
        self.count, self.saved, self.fetched = len(self.saved), [], set()
        # random numbers are drawn again only if some were drawn: putting them back costs more than the comparison
        self.rng = None if torch.equal(before, torch.get_rng_state()) else before
        self.device_rng = device_before
        return out

    def _count(self, tensor: Tensor) -> int:
        # a linear layer saves a view of its weight: the base is the leaf, and both share one version counter
        leaf = tensor if tensor._base is None else tensor._base
        if leaf.is_leaf and leaf.requires_grad:
            self.leaves.append((leaf, leaf._version))
        # held until the call returns: a network may differentiate inside (an energy's score, a classifier's gradient).
        # Detached: a node that holds its own output never dies
        self.saved.append(tensor.detach())
        return len(self.saved) - 1

    def _fetch(self, index: int) -> Tensor:
        if not self.saved:
            self._replay()
        tensor = self.saved[index]
        self.fetched.add(index)
        if len(self.fetched) == self.count:
            self.saved = []
        return tensor

    def _replay(self) -> None:
        if self.original._version != self.version and not self.offload:
            raise RuntimeError(f"{self.name}: the state was changed in place after the forward pass; expected it untouched until "
                               "backward; clone it before writing to it")
        for leaf, version in self.leaves:
            if leaf._version != version:
                raise RuntimeError(
                    f"{self.name}: a tensor of shape {tuple(leaf.shape)} that the network used was changed in place between "
                    f"forward and backward (version {version} then, {leaf._version} now); call backward before the optimiser's "
                    "step, or use Direct()")
        saved: list[Tensor] = []

        def keep(tensor: Tensor) -> int:
            saved.append(tensor.detach())
            return len(saved) - 1

        state = self.kept.to(self.device).detach().requires_grad_(self.requires_grad)
        with torch.enable_grad(), self.contexts(), _random(self.rng, self.device_rng, self.device):
            with saved_tensors_hooks(keep, saved.__getitem__):
                self.fn(state)
        if len(saved) != self.count:
            raise RuntimeError(f"{self.name}: the replay saved {len(saved)} tensors, expected {self.count}; the network "
                               "took another path than in the forward pass; make it deterministic or use Direct()")
        self.live.enter(self)
        self.saved, self.fetched = saved, set()


def _autocast(kind: str) -> Callable[[], AbstractContextManager[object]]:
    if not torch.is_autocast_enabled(kind):
        return nullcontext
    dtype = torch.get_autocast_dtype(kind)
    return lambda: torch.autocast(kind, dtype=dtype)


class _random(AbstractContextManager[None]):
    """The random state of the forward pass, for the duration of the replay."""

    def __init__(self, rng: Tensor | None, device_rng: Tensor | None, device: torch.device) -> None:
        self.rng, self.device_rng, self.device = rng, device_rng, device

    def __enter__(self) -> None:
        self.fork = torch.random.fork_rng([self.device] if self.device_rng is not None else [])
        self.active = self.rng is not None or self.device_rng is not None
        if self.active:
            self.fork.__enter__()
            if self.rng is not None:
                torch.set_rng_state(self.rng)
            if self.device_rng is not None:
                torch.cuda.set_rng_state(self.device_rng, self.device)

    def __exit__(self, *error: Any) -> None:
        if self.active:
            self.fork.__exit__(*error)
