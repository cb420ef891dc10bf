"""Forward mode through a whole run: the sample and how it moves, at the memory of one call."""

from threading import RLock
from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual

from ...solvers import Model, Noise, Plan
from ...solvers.checked import checked
from ...solvers.packing import Packing, State
from ...solvers.program import Call
from ..arguments import check_arguments
from ..given import Given
from ..not_finite import not_finite
from ..transforms import finite, transform
from .call_jvp import CallJVP, ForwardMode
from .entering import EnteringTensors
from .untouched import NothingKept, NoWayRound, buffers_aside

# torch's forward mode, and where modules hold weights, are the process's: products of two threads must not meet
ONE_AT_A_TIME = RLock()


@checked
def pushforward(
    denoiser: Model,
    plan: Plan,
    x: State,
    tangent: State,
    *,
    cond: Any = None,
    noise: Noise | State | None = None,
    controls: State | None = None,
    wrt: Any = None,
    by: CallJVP = ForwardMode(),
) -> tuple[State, State]:
    """(x_0, J v): the sample and its derivative along the tangent v, without a graph.

    Between its network calls a plan is linear, and tangents move by its own coefficients: with
    out <- sum c_r reg_r + sum k_j xi_j goes d_out <- sum c_r d_r + sum k_j d_xi_j; at a call by the network's JVP.

    Args:
        x, cond, noise, controls: as for `sample`. Noise from a counter is drawn as in any other run.
        tangent: v, one tensor for each in `wrt` and nested as that is; by default of x's form.
        wrt: what moves, in any nesting: tensors that are passed as x, cond, noise or controls (the values of a
            `PerStep`), or parameters of the network's modules. Default: x.
        by: how a network call is differentiated.

    Returns:
        Two states of x's form.

    Raises:
        ValueError: as `sample`; a tensor in `wrt` that does not enter, or enters by other ways too; a tangent of
            another form; inside a torch.func transform or forward-mode AD.
        NotImplementedError: an operation of the network without a forward-mode derivative.
        FloatingPointError: a sample or tangent that is not finite.
        RuntimeError: a network that writes to its buffers (which stay as they were), or keeps a tensor from call to
            call.

    Cost: plan.nfe JVPs of the network, of 2 to 3 F each; memory: the registers twice, and one call. Any plan: with
    noise, stacked, with `Apply` instructions. Source: Griewank and Walther 2008, Evaluating Derivatives, chapter 3.
    """
    check_arguments(denoiser, plan, x, cond=cond, noise=noise, controls=controls)
    entering = EnteringTensors.of(denoiser, x, cond, noise, controls, wrt)
    packing, value, pushed = pushed_through(plan, entering, entering.tangents(tangent), by)
    return packing.unpack(value), packing.unpack(pushed)


def pushed_through(
    plan: Plan, entering: EnteringTensors, tangents: list[Tensor], by: CallJVP
) -> tuple[Packing, Tensor, Tensor]:
    """(how states are packed, the sample, its tangent), packed."""
    with ONE_AT_A_TIME:  # before one asks whether somebody is at it
        return _pushed_through(plan, entering, tangents, by)


def _pushed_through(
    plan: Plan, entering: EnteringTensors, tangents: list[Tensor], by: CallJVP
) -> tuple[Packing, Tensor, Tensor]:
    if around := transform():
        raise ValueError(f"pushforward: got {around}, expected none: forward mode does not nest; use torch.func.jvp on "
                         "sample(..., gradient=Direct())")  # fmt: skip
    aside = buffers_aside(entering.model)
    no_way_round = NoWayRound(entering.model, entering.wrt)
    with torch.no_grad(), by.around(), dual_level(), aside:
        pairs = zip(entering.wrt, tangents, strict=True)
        duals = [make_dual(value.detach(), tangent) for value, tangent in pairs]
        kept = NothingKept(entering.model, duals)
        arguments = entering.standing_in(duals)
        given = Given.of(
            entering.model,
            plan,
            arguments["x"],
            arguments["cond"],
            arguments["noise"],
            arguments["controls"],
            None,
        )
        rollout = given.rollout(lambda step, x: None, ())

        def evaluate(call: Call, state: Tensor) -> Tensor:
            with no_way_round:
                out = by.evaluate(rollout, entering, duals, call, state)
            kept.called()
            return out

        value, pushed = unpack_dual(rollout.execute(given.registers, evaluate)["x"])
        kept.check()
        value = value.detach()
        if not finite(value):
            raise not_finite(rollout, given.registers, value)
        pushed = torch.zeros_like(value) if pushed is None else pushed.detach()
        if not finite(pushed):
            raise FloatingPointError(
                "tangent: got one that is not finite at the sample, though the sample is, expected a finite one and a "
                "network with finite derivatives; mend it there (sqrt and norm have none at 0), or use a wider dtype"
            )
        return given.start.packing, value, pushed
