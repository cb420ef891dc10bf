"""BoundModel: the model of one run, whose calls do the same with and without a graph, forwards and in a replay."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import BaseTorchFunctionMode

from ...solvers import Model
from .call_state import REPLAYING
from .model_around import ModelAround
from .wrappers import replicas

ATTENTION = (nn.MultiheadAttention, nn.TransformerEncoder, nn.TransformerEncoderLayer)


class BoundModel(ModelAround):
    """`model` for one run, its modules and parameters looked up once.

    torch's attention layers in eval mode take a fast path where no gradient is wanted, with other values at padded
    positions: it is off in every call, with or without a gradient. DistributedDataParallel prepares its averaging
    at each call that has a graph: a replay, in the midst of the backward pass, calls the module inside it.
    """

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.found, self.tensors = tuple(model.networks()), tuple(model.parameters())
        self.is_module = isinstance(getattr(model, "network", None), nn.Module)
        self.replicas = replicas(self)
        self.attends = any(isinstance(part, ATTENTION) for each in self.found for part in each.modules())

    def _called(self, model: Callable[..., Tensor], x: Tensor, t: Tensor, cond: Any) -> Tensor:
        if not (self.attends or self.replicas):
            return model(x, t, cond)
        with ExitStack() as around:
            for context in self._around():
                around.enter_context(context)
            return model(x, t, cond)

    def _around(self) -> Iterator[AbstractContextManager[Any]]:
        if self.attends:
            # the layers look whether a mode is on and then take the ordinary path; unlike
            # torch.backends.mha.set_fastpath_enabled this leaves other threads alone
            yield BaseTorchFunctionMode()
        if REPLAYING.get():
            yield from (_as_its_module(each) for each in self.replicas)

    def parameters(self) -> Iterator[Tensor]:
        yield from self.tensors

    def networks(self) -> Iterator[nn.Module]:
        yield from self.found


@contextmanager
def _as_its_module(replica: DistributedDataParallel) -> Iterator[None]:
    before = vars(replica).get("forward")
    vars(replica)["forward"] = replica.module  # by way of the dict: nn.Module would register a second child
    try:
        yield
    finally:
        del vars(replica)["forward"]
        if before is not None:
            vars(replica)["forward"] = before
