"""The one node that autograd sees of a run on tape."""

from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor, is_legacy_batchedtensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from ...solvers import Apply
from .fingerprint import Projection
from .rollout import Rollout
from .tape import Tape
from .wrappers import hooked


class _Node(torch.autograd.Function):
    """A run that has been made: its inputs are known only afterwards, when the first call has been looked at."""

    @staticmethod
    def forward(ctx: Any, tape: Tape, outs: tuple[Tensor, ...], *inputs: Tensor) -> tuple[Tensor, ...]:
        out = outs[0]
        ctx.tape, ctx.steps, ctx.sign = tape, list(tape.rollout.caught), Projection(out)(out)
        # the sample's cotangent where only states along the way are used: its shape, one number of memory
        ctx.zero = out.new_zeros(()).expand(out.shape)
        ctx.set_materialize_grads(False)
        # autograd holds what is kept, from here on alone: it frees it after the backward pass (unless
        # retain_graph) and sees if anybody writes to it. What remains is the nesting
        kept, ctx.nesting = tree_flatten(tape.kept)
        tape.kept = None
        ctx.save_for_backward(*kept)
        return outs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        if any(is_batchedtensor(grad) or is_legacy_batchedtensor(grad) for grad in grads if grad is not None):
            raise RuntimeError(
                "got many cotangents at once (is_grads_batched=True, or a vectorised Jacobian), expected one: the "
                "backward pass of a run replays the network; ask for one after the other, or use Direct()"
            )
        tape: Tape = ctx.tape
        end = ctx.zero if grads[0] is None else grads[0]
        jumps = {step: grad for step, grad in zip(ctx.steps, grads[1:], strict=True) if grad is not None}
        tape.check()
        if torch.is_grad_enabled():
            found = tape.backward_with_graph(ctx.sign, end, jumps)
        else:
            kept = tree_unflatten(ctx.saved_tensors, ctx.nesting)
            names = zip(tape.inputs.wanted, ctx.next_functions, strict=True)
            found = tape.backward(kept, end, jumps, {name for name, (node, _) in names if _executed(node)})
        return None, None, *found


def _executed(node: Any) -> bool:
    """Whether the backward pass under way goes on to `node`: autograd.grad(loss, x) wants no weights' gradients.

    `ctx.needs_input_grad` does not tell: it says which inputs require grad at all.
    """
    try:
        return torch._C._will_engine_execute_node(node)  # type: ignore[attr-defined]
    except RuntimeError:  # a leaf that autograd.grad was asked for: its gradient is caught on the way in
        return True


def differentiable(tape: Tape) -> Tensor:
    """Run the tape forwards; the sample's backward pass is the tape's. Raises Captured."""
    out, caught = tape.forward(), tape.rollout.caught
    wanted = tape.inputs.wanted.values()
    if not wanted:
        return out
    # a state caught at the entry is an input, and an output must be a tensor of its own
    states = [state.to(out.dtype).clone() for state in caught.values()]
    out, *states = _Node.apply(tape, (out, *states), *wanted)  # type: ignore[misc]
    caught.update(zip(list(caught), states, strict=True))
    return out


def obstacle(rollout: Rollout) -> str:
    """Why one node around the run would be wrong, as far as is known before the first call; "" if nothing is."""
    if any(isinstance(op, Apply) for op in rollout.program.plan.instructions):
        return "a plan with Apply instructions"
    if rollout.program.learned:
        return "coefficients that require grad"
    return hooked(rollout.model)
