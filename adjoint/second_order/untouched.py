"""What a product with the Jacobian must not meet: a way round the stand-ins, and what stays of a call."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ...solvers import Model
from ...solvers.kinds import described
from ..replay.parameters import parameters
from ..replay.plain_state import BASE
from ..replay.snapshot import Snapshot

KeptTensors = dict[tuple[nn.Module, str], tuple[Tensor, ...]]


class NoWayRound(TorchFunctionMode):
    """Around a network call: refuses an operation on one of `wrt` itself, in whose place another tensor stands. What
    goes by a closure, a list or another attribute would not move.
    """

    def __init__(self, model: Model, wrt: Sequence[Tensor]) -> None:
        super().__init__()
        named = {
            id(value): name for name, value in parameters(model).items()
        }  # while they are in their places
        self.wrt = {id(value): named.get(id(value), described(value)) for value in wrt}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__name__", "") != "__get__":  # its shape or dtype may be looked at
            for leaf in tree_leaves((args, kwargs)):
                if id(leaf) in self.wrt:
                    raise ValueError(
                        f"wrt: got {self.wrt[id(leaf)]}, which the network also reaches past its "
                        "arguments and its modules' parameters (a closure, a list, a plain attribute), expected it "
                        "to be reached there alone; read it from its module (self.layer.weight) at each call"
                    )
        return func(*args, **(kwargs or {}))


class NothingKept:
    """Whether a tensor stays in an attribute of a module from the first call to the end: a memo, whose tangent would
    be lost by the next product. A list of weights that the module renews by itself (`nn.LSTM`) is none.
    """

    def __init__(self, model: Model, stand_ins: Sequence[Tensor]) -> None:
        self.model, self.before, self.stand_ins = model, _kept(model), {id(value) for value in stand_ins}
        self.first: KeptTensors | None = None

    def called(self) -> None:
        """To be told after each call."""
        self.first = self.first or _kept(self.model)

    def check(self) -> None:
        """Raise RuntimeError naming what stayed, which is taken out where it is an attribute."""
        now = _kept(self.model)
        for at, tensors in (self.first or {}).items():
            if all(id(tensor) in self.stand_ins or isinstance(tensor, nn.Parameter) for tensor in tensors):
                continue
            if not _same(tensors, self.before.get(at, ())) and _same(tensors, now.get(at, ())):
                module, name = at
                if isinstance(vars(module)[name], Tensor):
                    setattr(module, name, None)
                raise RuntimeError(
                    f"a product with the Jacobian: got a network that keeps {name!r} of {type(module).__name__} from "
                    "call to call, expected nothing to stay: its tangent is lost by the next product; compute it at "
                    "each call, or outside, and pass it as cond"
                )


@contextmanager
def buffers_aside(model: Model) -> Iterator[None]:
    """Inside, the modules hold copies of their buffers. Raises RuntimeError where those were written to."""
    places = [
        (module._buffers, name, value)
        for network in model.networks()
        for module in network.modules()
        for name, value in module._buffers.items()
        if value is not None
    ]
    copies = {id(value): value.clone() for *_, value in places}
    try:
        for where, name, value in places:
            where[name] = copies[id(value)]
        snapshot = Snapshot(model, {})
        yield
        snapshot.check_buffers("by the run")
    finally:
        for where, name, value in places:
            where[name] = value


def _kept(model: Model) -> KeptTensors:
    """The tensors among the modules' plain attributes."""
    return {
        (module, name): tuple([leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)])
        for network in model.networks()
        for module in network.modules()
        for name, value in vars(module).items()
        if name not in BASE and isinstance(value, Tensor | dict | list | tuple)
    }


def _same(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    return len(left) == len(right) and all(a is b for a, b in zip(left, right, strict=True))
