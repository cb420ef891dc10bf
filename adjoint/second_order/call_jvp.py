"""How the JVP of one network call is taken: by forward-mode formulas, or by two backward passes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.forward_ad import make_dual, unpack_dual
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map_only

from ...solvers import Call
from ...solvers.loop import predict
from ...solvers.per_step import at_step
from ..replay.rollout import Rollout
from .entering import EnteringTensors


class CallJVP(ABC):
    """The prediction of one network call with its tangent. What stands between calls is linear, and needs no choice."""

    WANTED: ClassVar[str] = "ForwardMode() or DoubleBackward()"

    def around(self) -> AbstractContextManager[Any]:
        """What stands around a run."""
        return nullcontext()

    @abstractmethod
    def evaluate(
        self, rollout: Rollout, entering: EnteringTensors, duals: Sequence[Tensor], call: Call, state: Tensor
    ) -> Tensor:
        """The prediction at `state`, all dual tensors: `duals` are what the run is differentiated at, those that the
        rollout's conditioning holds and those that stand for parameters.
        """


@dataclass(frozen=True)
class ForwardMode(CallJVP):
    """PyTorch's forward-mode formulas: 2 to 3 F a call, and no activations are kept.

    `scaled_dot_product_attention` is computed by its plain formula, since the fused kernels have none. What a network
    computes under `torch.no_grad` has a tangent here and none in a VJP: `Linearisation.gauss_newton` notices.
    """

    def around(self) -> AbstractContextManager[Any]:
        return sdpa_kernel(SDPBackend.MATH)

    def evaluate(
        self, rollout: Rollout, entering: EnteringTensors, duals: Sequence[Tensor], call: Call, state: Tensor
    ) -> Tensor:
        try:
            with entering.parameters_as(duals):
                return rollout.evaluate(call, state)
        except (NotImplementedError, RuntimeError) as error:
            if "forward AD" not in str(error) and "forward mode AD" not in str(error):
                error.add_note(
                    "in forward mode; by=DoubleBackward() does without PyTorch's forward-mode formulas"
                )
                raise
            raise NotImplementedError(
                f"network call {call.index} of step {call.step}: got an operation without a forward-mode derivative "
                f"({str(error).splitlines()[0]}), expected one for each; pass by=DoubleBackward()"
            ) from error


@dataclass(frozen=True)
class DoubleBackward(CallJVP):
    """J v = d<J^T u, v>/du: a VJP is linear in its cotangent u, so that its own VJP is the JVP. For networks without
    forward-mode formulas; 4 to 5 F a call and twice its activations.

    It moves what a gradient moves: what is computed under `torch.no_grad` stands still.
    """

    def evaluate(
        self, rollout: Rollout, entering: EnteringTensors, duals: Sequence[Tensor], call: Call, state: Tensor
    ) -> Tensor:
        leaves, tangents = list[Tensor](), list[Tensor]()

        def enter(value: Tensor) -> Tensor:
            primal, tangent = unpack_dual(value)
            if tangent is None:
                return value
            leaves.append(primal.detach().requires_grad_())
            tangents.append(tangent.detach())
            return leaves[-1]

        cond: Any = at_step(rollout.cond, call.step) if rollout.scheduled else rollout.cond
        held = {id(value) for *_, value in entering.places}
        with torch.enable_grad():
            state, cond = enter(state), tree_map_only(Tensor, enter, cond)
            parameters = [
                enter(dual) if id(value) in held else dual
                for value, dual in zip(entering.wrt, duals, strict=True)
            ]
            with entering.parameters_as(parameters):
                out = predict(rollout.model, call, state, cond)
            if not leaves or not out.requires_grad:
                return out.detach()
            u = torch.zeros_like(out, requires_grad=True)
            pulled = torch.autograd.grad(out, leaves, u, create_graph=True, allow_unused=True)
            pairs = [
                (p, v) for p, v in zip(pulled, tangents, strict=True) if p is not None and p.requires_grad
            ]
            if not pairs:
                return out.detach()
            (pushed,) = torch.autograd.grad([p for p, _ in pairs], u, [v for _, v in pairs])
        return make_dual(out.detach(), pushed)
