"""Snapshot: what must not change between a run and its backward pass."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ...solvers import Model
from .parameters import named
from .wrappers import is_sharded, replicas

# what a layer of peft computes depends on these, and no tensor's version tells that they changed
ADAPTER_FLAGS = ("_active_adapter", "_disable_adapters", "merged_adapters", "scaling")
SMALL = 4096  # numbers of a buffer, up to which a copy is kept


class Snapshot:
    """Versions of all that enters a run and modes of its modules: a replay after any change would be silently wrong.

    Args:
        model: whose buffers, parameters and modules are looked at.
        tensors: everything that enters, by name.
    """

    def __init__(self, model: Model, tensors: Mapping[str, Tensor]) -> None:
        self.model, self.tensors = model, tensors
        self.versions = {name: _version(value) for name, value in tensors.items()}
        self.wanted = {name: value.requires_grad for name, value in tensors.items()}
        # DDP broadcasts buffers at calls: what it writes over is mostly the same
        copied = any(each.broadcast_buffers for each in replicas(model))
        self.buffers = {
            # the numbers of a large one are not copied for a comparison that is hardly ever made
            name: (value, _version(value), value.clone() if copied or value.numel() <= SMALL else None)
            for name, value in self._named(nn.Module.named_buffers)
            if not value.is_meta  # offloaded: a hook brings in another tensor for each call
        }
        # FSDP swaps parameters and their storage around every call
        self.places = {} if is_sharded(model) else self._places()
        self.modes = self._modes()

    def check(self) -> None:
        """Raise RuntimeError naming what changed since."""
        for name, value in self.tensors.items():
            if _version(value) != self.versions[name]:
                raise RuntimeError(
                    f"{name} {tuple(value.shape)} was changed in place between forward and backward (version "
                    f"{self.versions[name]} then, {_version(value)} now), expected it as the run read it; call "
                    "backward before the optimiser's step, clone before writing, or use Direct()"
                )
            if value.requires_grad != self.wanted[name]:
                raise RuntimeError(
                    f"{name} {tuple(value.shape)}: got requires_grad={value.requires_grad} in the backward pass, "
                    f"expected {self.wanted[name]} as in the forward pass; switch it after backward"
                )
        places = self._places() if self.places else {}
        for name in self.places.keys() | places.keys():
            if places.get(name) != self.places.get(name) and not self._moved(name):
                raise RuntimeError(
                    f"parameter {name} was replaced between forward and backward; expected the network as it "
                    "was; call backward before loading or moving weights, or use Direct()"
                )
        self.check_buffers("between forward and backward")
        for name, now in self._modes().items():
            if self.modes.get(name) != now:
                raise RuntimeError(_switched(name, self.modes.get(name), now))

    def check_buffers(self, when: str) -> None:
        """Raise RuntimeError naming a buffer written to since."""
        now = dict(self._named(nn.Module.named_buffers))
        for name, (value, version, copy) in self.buffers.items():
            there = now.get(name)
            if there is value and _version(value) == version:
                continue
            if there is None or not _equal(
                there, value if copy is None and _version(value) == version else copy
            ):
                raise RuntimeError(
                    f"buffer {name} of the network was changed {when}, expected it untouched: a replay would use "
                    "another value and change it once more (batch normalisation in train mode? a cache kept in a "
                    "buffer? DDP's broadcast_buffers?); call eval(), turn the broadcast off, keep the cache in a "
                    "plain attribute, or use Direct()"
                )

    def _modes(self) -> dict[str, tuple[Any, ...]]:
        return {
            name: (module.training, *(_frozen(vars(module).get(flag)) for flag in ADAPTER_FLAGS))
            for name, module in self._named(nn.Module.named_modules)
        }

    def _places(self) -> dict[str, tuple[int, int]]:
        """Which tensor each parameter is, and where its numbers lie; on meta there are none."""
        return {
            name: (id(value), value.data_ptr())
            for name, value in self._named(nn.Module.named_parameters)
            if not value.is_meta
        }

    def _moved(self, parameter: str) -> bool:
        """Whether a module around the parameter has hooks or a `forward` of its own, which may move or cast weights
        at every call: offloading, layerwise casting. If they were replaced by others, the replay's output tells.
        """
        modules = dict(self._named(nn.Module.named_modules))
        path, _, number = parameter.partition(" of ")
        parts = path.split(".")[:-1]
        around = (".".join(parts[:k]) + (f" of {number}" if number else "") for k in range(len(parts) + 1))
        return any(
            module._forward_pre_hooks or module._forward_hooks or "forward" in vars(module)
            for module in (modules[name] for name in around)
        )

    def _named(self, what: Callable[[nn.Module], Iterable[tuple[str, Any]]]) -> Iterator[tuple[str, Any]]:
        return named(self.model, what)


def check_initialised(model: Model, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError naming one of `tensors`, or a buffer, whose shape the first call would find (nn.Lazy*)."""
    for name, value in (*tensors.items(), *named(model, nn.Module.named_buffers)):
        if is_lazy(value):
            raise ValueError(
                f"{name} of the network: got it without a shape (nn.Lazy*), expected it initialised before the "
                "run; call the network once on a batch like the state, or use Direct()"
            )


def _version(value: Tensor) -> int | None:
    """How often it was written to. Tensors made under inference_mode do not count, nor may they be written to
    outside it.
    """
    return None if value.is_inference() else value._version


def _equal(left: Tensor, right: Tensor | None) -> bool:
    return (
        right is not None
        and (left.shape, left.dtype, left.device) == (right.shape, right.dtype, right.device)
        and torch.equal(left, right)
    )


def _switched(name: str, then: tuple[Any, ...] | None, now: tuple[Any, ...]) -> str:
    """Which mode or adapter of a module is another than in the forward pass."""
    what = f"module {name!r}" if name else "the network"
    if then is None:
        return f"{what} was added after the forward pass, expected the network as it was; change it after backward"
    flag, before, after = next(
        (flag, *pair)
        for flag, *pair in zip(("training", *ADAPTER_FLAGS), then, now, strict=True)
        if pair[0] != pair[1]
    )
    return (
        f"{what} had {flag}={before} in the forward pass, got {after} in the backward pass, expected the same; switch "
        "modes and adapters after backward"
    )


def _frozen(value: Any) -> Any:
    """A copy of an adapter's flag: the layer changes its own in place."""
    if isinstance(value, dict):
        return tuple(value.items())
    return tuple(value) if isinstance(value, list) else value
