"""A run linearised: its Jacobian as a map, both ways, as often as asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from ...solvers import Model, Noise, Plan
from ...solvers.checked import checked
from ...solvers.packing import State
from ...solvers.wanted import Wanted
from ..arguments import check_arguments
from ..choosing.auto import Auto
from ..replay.call_state import CallState
from ..replay.fingerprint import Projection, check_repeated, tolerance
from ..replay.parameters import parameters
from ..replay.snapshot import Snapshot
from ..replay.turns import Turns
from ..sampling import sample
from ..strategies.checkpoint import Checkpoint
from ..strategies.direct import Direct
from ..strategies.gradient import Gradient
from ..strategies.reversible import Reversible
from .call_jvp import CallJVP, ForwardMode
from .entering import EnteringTensors
from .forward_mode import pushed_through

Curvature = Annotated[Callable[[State], State], Wanted("a function from u to H u at the sample")]
ADJOINT = {torch.float64: 1e-8, torch.float32: 1e-3}
ADJOINT_COARSE = 0.05  # of half precision


@dataclass(frozen=True, eq=False)
class Linearisation:
    """The Jacobian J of a run at one point: of the sample with respect to `wrt`.

    It refers to the network and to what entered: neither may change while it is in use, and what is seen to have
    changed is an error.

    Attributes:
        value: the sample (B, ...), without a graph.
        plan: whose run it is.
    """

    value: State
    plan: Plan
    _entering: EnteringTensors
    _leaves: list[Tensor]
    _out: list[Tensor]
    _around: CallState
    _snapshot: Snapshot
    _by: CallJVP

    def jvp(self, tangent: State) -> State:
        """J v, of the sample's form; `tangent` of that of `wrt`. Cost: plan.nfe JVPs of the network."""
        self._snapshot.check()
        with self._around.restored():  # the random numbers and the autocast of the run
            packing, value, pushed = pushed_through(
                self.plan, self._entering, self._entering.tangents(tangent), self._by
            )
        then, projection = packing.pack(self.value), Projection(value)
        allowed = tolerance([value, *self._snapshot.tensors.values()], [self._around.autocast])
        check_repeated("the run", projection(then.to(value)), projection(value), allowed)
        return packing.unpack(pushed)

    def vjp(self, cotangent: State) -> State:
        """J^T w, of the form of `wrt`; `cotangent` of the sample's. Cost: plan.nfe VJPs and the strategy's replays."""
        self._snapshot.check()
        given, spec = tree_flatten(cotangent)
        wanted, form = tree_flatten(self.value)
        if spec != form or any(w.shape != out.shape for w, out in zip(given, wanted, strict=True)):
            raise ValueError(
                f"cotangent: got {[tuple(w.shape) for w in given]}, expected {[tuple(out.shape) for out in wanted]}, "
                "nested as the sample is"
            )
        pairs = [
            (out, w.detach().to(out)) for out, w in zip(self._out, given, strict=True) if out.requires_grad
        ]
        outs, ws = [out for out, _ in pairs], [w for _, w in pairs]
        found = torch.autograd.grad(
            outs, self._leaves, ws, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return self._entering.nested(found)

    def gauss_newton(self, tangent: State, curvature: Curvature | None = None) -> State:
        """J^T H J v, of the form of `wrt`. H: `curvature`, symmetric; by default the identity.

        Raises:
            RuntimeError: where J v and J^T w are not of one matrix, by <w, J v> = <J^T w, v>.

        Cost: one `jvp` and one `vjp`.
        """
        pushed = self.jvp(tangent)
        w = pushed if curvature is None else curvature(pushed)
        pulled = self.vjp(w)
        _check_adjoint(_flat(w), _flat(pushed), _flat(pulled), _flat(tangent), exactness(self))
        return pulled


@checked
def linearised(
    denoiser: Model,
    plan: Plan,
    x: State,
    *,
    cond: Any = None,
    noise: Noise | State | None = None,
    controls: State | None = None,
    wrt: Any = None,
    gradient: Gradient = Checkpoint(),
    by: CallJVP = ForwardMode(),
) -> Linearisation:
    """Run `plan` from x and keep what products with its Jacobian need.

    Args:
        x, cond, noise, controls: as for `sample`.
        wrt: what the Jacobian is taken at, in any nesting: tensors that are passed as x, cond, noise or controls (the
            values of a `PerStep`), or parameters of the network's modules that require grad. Default: x.
        gradient: how J^T w is made, and what is kept for it: `Checkpoint()`, one state a call and the activations of
            one; `Direct()`, all activations, and no replay; `Reversible()`. Only these, which are exact.
        by: how a network call is differentiated in J v.

    Raises:
        ValueError: as `sample` and `pushforward`; another strategy; a parameter that does not require grad.

    Cost: plan.nfe network calls. What cannot be repeated (a changed weight, a generator of the network's own) is an
    error of the product that meets it; dropout is replayed.
    """
    if not isinstance(gradient, Auto | Checkpoint | Direct | Reversible):
        raise ValueError(f"gradient: got {gradient}, expected an exact strategy that J^T w is the transpose by; pass "
                         "Checkpoint(), Direct() or Reversible()")  # fmt: skip
    check_arguments(denoiser, plan, x, cond=cond, noise=noise, controls=controls)
    entering = EnteringTensors.of(denoiser, x, cond, noise, controls, wrt)
    held = {id(value) for *_, value in entering.places}
    if not all(value.requires_grad for *_, value in entering.places):
        raise ValueError(
            "wrt: got a parameter that does not require grad, expected those that do; call requires_grad_()"
        )
    leaves = [v if id(v) in held else v.detach().requires_grad_() for v in entering.wrt]
    around = CallState(leaves[0].device, Turns())
    out = sample(denoiser, plan, gradient=gradient, **entering.standing_in(leaves))
    around.seal()
    snapshot = Snapshot(entering.model, parameters(entering.model) | entering.tensors())
    value = tree_map(torch.Tensor.detach, out)
    return Linearisation(value, plan, entering, leaves, tree_leaves(out), around, snapshot, by)


def exactness(linear: Linearisation) -> float:
    """By how much <w, J v> and <J^T w, v> may differ, of |w| |J v|: as its coarsest numbers have it."""
    if linear._around.autocast[0]:
        return ADJOINT_COARSE
    entered = (*linear._leaves, *tree_leaves(linear.value), *linear._snapshot.tensors.values())
    return max(ADJOINT.get(value.dtype, ADJOINT_COARSE) for value in entered if value.is_floating_point())


def _flat(tree: State) -> Tensor:
    return torch.cat([leaf.detach().flatten().to(torch.float64) for leaf in tree_leaves(tree)])


def _check_adjoint(w: Tensor, pushed: Tensor, pulled: Tensor, v: Tensor, allowed: float) -> None:
    """Raise RuntimeError unless <w, J v> = <J^T w, v>."""
    left, right = w @ pushed, pulled @ v
    scale = w.norm() * pushed.norm() + pulled.norm() * v.norm()
    if not (left - right).abs() <= allowed * scale:
        raise RuntimeError(
            f"J v and J^T w: got <w, J v> = {float(left):.6g} and <J^T w, v> = {float(right):.6g}, expected the same: "
            "something in the network or in H has a tangent and no gradient (torch.no_grad inside?), or another one; "
            "pass by=DoubleBackward(), which moves what a gradient moves"
        )
