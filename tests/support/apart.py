"""Devices apart from the host: CUDA where there is one, and a stand-in for it that runs anywhere.

The stand-in computes on the CPU and behaves towards the library as a device does: what lies there cannot be mixed
with what does not, and whoever reads a number of it, or moves it over, is seen. So a law of CUDA can be red here.
"""

import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
PLACE = torch.device("meta")  # the one device besides the CPU that every build of torch can run autograd on
# what needs a number on the host before it can go on
READS = {
    aten._local_scalar_dense.default, aten.is_nonzero.default, aten.item.default, aten.equal.default,
    aten.nonzero.default, aten.masked_select.default, aten.unique_consecutive.default, aten._unique2.default,
    aten.repeat_interleave.Tensor,
}  # fmt: skip
MOVES = {aten._to_copy.default, aten.copy_.default}
INDEXING = {
    aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default
}  # fmt: skip


class HostRead(RuntimeError):
    """The host waited for the device."""


class Apart(ABC):
    """A device that the host should not wait for. `tolerance`: how far its arithmetic may lie from the host's."""

    tolerance: float

    @abstractmethod
    def running(self) -> Any:
        """A context in which tensors can live there."""

    @abstractmethod
    def put(self, value: Tensor) -> Tensor:
        """A copy there: a leaf that requires grad if `value` does."""

    @abstractmethod
    def fetch(self, value: Tensor) -> Tensor:
        """A copy on the host."""

    @abstractmethod
    def watch(self, on: bool) -> None:
        """From now on (until told otherwise) an error is raised where the host waits."""

    def put_module(self, module: nn.Module) -> nn.Module:
        """`module`, its parameters and buffers there."""
        for part in module.modules():
            for name, value in part.named_parameters(recurse=False):
                setattr(part, name, nn.Parameter(self.put(value.detach()), value.requires_grad))
            for name, value in part.named_buffers(recurse=False):
                setattr(part, name, self.put(value))
        return module


class Cuda(Apart):
    """The first CUDA device."""

    tolerance = 1e-6  # its sums have another order, and some plans amplify round-off

    @contextmanager
    def running(self) -> Iterator[None]:
        before = torch.cuda.get_sync_debug_mode()
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)

    def put(self, value: Tensor) -> Tensor:
        return value.detach().to("cuda").requires_grad_(value.requires_grad)

    def fetch(self, value: Tensor) -> Tensor:
        return value.detach().cpu()

    def watch(self, on: bool) -> None:
        torch.cuda.set_sync_debug_mode("error" if on else "default")


class Distant(Tensor):
    """A tensor of the stand-in: it says it lies there, and holds its numbers in `near`."""

    near: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, near: Tensor) -> "Distant":
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, near.shape, strides=near.stride(), storage_offset=near.storage_offset(),
            dtype=near.dtype, device=PLACE,
        )  # fmt: skip

    def __init__(self, near: Tensor) -> None:
        self.near = near

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Distant({tuple(self.shape)})"

    def tolist(self) -> Any:  # torch has none for a class of one's own
        return self.detach().cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {}, None)


class StandIn(Apart):
    """A device that the CPU plays. `watching`: whether a read, or a move to or fro, is an error."""

    tolerance = 1e-12

    def __init__(self) -> None:
        self.watching = False

    @contextmanager
    def running(self) -> Iterator[None]:
        # autocast knows devices by name, and not this one; it is off
        enabled, dtype = torch.is_autocast_enabled, torch.get_autocast_dtype
        with (
            mock.patch.object(
                torch.Tensor, "is_meta", property(lambda tensor: False)
            ),  # here it stands for a device that has numbers
            mock.patch.object(torch, "is_autocast_enabled", lambda *of: of != ("meta",) and enabled(*of)),
            mock.patch.object(
                torch, "get_autocast_dtype", lambda of: torch.bfloat16 if of == "meta" else dtype(of)
            ),
            _Literals(),
            _Everywhere(self),
        ):
            try:
                yield
            finally:
                self.watching = False

    def put(self, value: Tensor) -> Tensor:
        return Distant(value.detach().clone()).requires_grad_(value.requires_grad)

    def fetch(self, value: Tensor) -> Tensor:
        return value.detach().near  # type: ignore[attr-defined]

    def watch(self, on: bool) -> None:
        self.watching = on

    def waits(self, func: Any) -> None:
        """The host waits for `func`."""
        if self.watching:
            ours = [
                f for f in traceback.extract_stack() if "/torch/" not in f.filename and f.filename != __file__
            ]
            raise HostRead(f"{func} in {ours[-1].name}, {ours[-1].filename}:{ours[-1].lineno}")


class _Everywhere(TorchDispatchMode):
    """Factories that name the stand-in's device make their tensors there, and who reads is told on."""

    def __init__(self, host: StandIn) -> None:
        super().__init__()
        self.host = host

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {}, self.host)


class _Literals(TorchFunctionMode):
    """torch.tensor(numbers, device=...) never shows a dispatch mode the numbers: make them here, then move them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu") == PLACE:
            del kwargs["device"]
            return func(*args, **kwargs).to(PLACE)
        return func(*args, **kwargs)


def _computed(func: Any, args: Any, kwargs: dict[str, Any], host: StandIn | None) -> Any:
    """`func` on the tensors' numbers; its results lie where its arguments do, or where it says."""
    tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    there = [value for value in tensors if isinstance(value, Distant)]
    here = [value for value in tensors if not isinstance(value, Distant)]
    aim = kwargs.get("device")
    place = bool(there) if aim is None else torch.device(aim) == PLACE
    if not there and not place:
        return func(*args, **kwargs)
    if host is not None:
        crosses = func in MOVES and (bool(here) or place != bool(there))
        if func in READS or crosses or func in INDEXING and _by_mask(args):
            host.waits(func)
    if there and func not in MOVES and any(value.ndim for value in here):
        shapes = [(tuple(value.shape), value.device.type) for value in tensors]
        raise RuntimeError(f"expected all tensors on one device: {func} got {shapes}")
    if aim is not None:
        kwargs = {**kwargs, "device": "cpu"}
    out = func(*tree_map(_near, args), **tree_map(_near, kwargs))
    if func._schema.is_mutable and isinstance(args[0], Tensor):
        return args[0]
    return (
        tree_map(lambda value: Distant(value) if isinstance(value, Tensor) else value, out) if place else out
    )


def _near(value: Any) -> Any:
    return value.near if isinstance(value, Distant) else value


def _by_mask(args: Any) -> bool:
    """An index by mask counts what it finds; one by numbers that lie on the host moves them."""
    index = [value for value in args[1] if isinstance(value, Tensor)]
    return any(value.dtype in (torch.bool, torch.uint8) or not isinstance(value, Distant) for value in index)


class Watched(nn.Module):
    """A network that has its device watched from the end of its first call to the start of its last one.

    Args:
        last: how many calls there will be; 0 to count them only.
    """

    def __init__(self, inner: nn.Module, device: Apart) -> None:
        super().__init__()
        self.inner, self.device, self.calls, self.last = inner, device, 0, 0

    def expect(self, calls: int) -> None:
        self.calls, self.last = 0, calls

    def forward(self, *args: Any) -> Tensor:
        self.calls += 1
        if self.calls == self.last:
            self.device.watch(False)
        out = self.inner(*args)
        if self.calls == 1 < self.last:
            self.device.watch(True)
        return out
