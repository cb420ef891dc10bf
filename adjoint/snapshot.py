"""Snapshot: what must not change between a run and its backward pass."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..solvers import Model
from .parameters import named
from .wrappers import is_sharded, replicas

# what a layer of peft computes depends on these, and no tensor's version tells that they changed
ADAPTER_FLAGS = ("_active_adapter", "_disable_adapters", "merged_adapters", "scaling")


class Snapshot:
    """Versions of all that enters a run and modes of its modules: a replay after any change would be silently wrong.

    Args:
        model: whose buffers, parameters and modules are looked at.
        tensors: everything that enters, by name.
    """

    def __init__(self, model: Model, tensors: dict[str, Tensor]) -> None:
        self.model, self.tensors = model, tensors
        self.versions = {name: _version(value) for name, value in tensors.items()}
        self.wanted = {name: value.requires_grad for name, value in tensors.items()}
        # DDP broadcasts buffers at calls: what it writes over is mostly the same
        copied = any(each.broadcast_buffers for each in replicas(model))
        self.buffers = {
            name: (value, _version(value), value.clone() if copied else None)
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
                raise RuntimeError(
                    f"module {name!r} had (train, adapters) {self.modes.get(name)} in the forward pass, "
                    f"{now} now; expected the same in backward; switch modes and adapters after it"
                )

    def check_buffers(self, when: str) -> None:
        """Raise RuntimeError naming a buffer written to since."""
        now = dict(self._named(nn.Module.named_buffers))
        for name, (value, version, copy) in self.buffers.items():
            same = now.get(name) is value
            if not same or _version(value) != version and (copy is None or not torch.equal(value, copy)):
                raise RuntimeError(
                    f"buffer {name} of the network was changed {when}, expected it untouched: a replay would use "
                    "another value and change it once more (batch normalisation in train mode? DDP's "
                    "broadcast_buffers?); call eval(), turn the broadcast off, or use Direct()"
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


def _version(value: Tensor) -> int | None:
    """How often it was written to. Tensors made under inference_mode do not count, nor may they be written to
    outside it.
    """
    return None if value.is_inference() else value._version


def _frozen(value: Any) -> Any:
    """A copy of an adapter's flag: the layer changes its own in place."""
    if isinstance(value, dict):
        return tuple(value.items())
    return tuple(value) if isinstance(value, list) else value
