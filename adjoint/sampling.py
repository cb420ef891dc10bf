"""`sample`: from noise to sample, with gradients that reach everything that went in."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from ..solvers import Model, Noise, Plan
from ..solvers.packing import State
from .arguments import check_arguments, check_nodes
from .choosing.auto import Auto
from .chosen import check_reached, chosen
from .given import Given
from .not_finite import blanked, lost, not_finite, which_samples, without
from .one_graph import in_one_graph
from .replay.rollout import Registers, Rollout
from .strategies.gradient import Gradient
from .transforms import finite, transform
from .watching import Callback, Watcher

END = -1  # the node of the sample, among those of the states that are caught


def sample(
    denoiser: Model,
    plan: Plan,
    x: State | dict[str, State],
    *,
    cond: Any = None,
    noise: Noise | State | None = None,
    controls: State | None = None,
    coefficients: Tensor | None = None,
    gradient: Gradient | None = Auto(),
    callback: Callback | None = None,
    progress: bool = False,
    keep_finite: bool = False,
) -> State:
    """Run `plan` from state x and return the sample; `loss(sample).backward()` reaches every tensor that went in.

    Args:
        denoiser: network + process + prediction; its process must be the plan's.
        plan: from `method.plan(denoiser.process, grid)`.
        x: (B, ...) state at the plan's first time, or any nesting of dicts, lists and tuples of such tensors,
            which the network then sees and returns. A dict with exactly the names of `plan.entry` is the
            registers that an inverse, or the rest of a split plan, starts from. All leaves are carried in the
            widest of their dtypes, float32 at least.
        cond: what the network takes as third argument: nested dicts, lists and tuples of tensors;
            `PerStep(values)` gives step k values[k].
        noise: for stochastic plans: `Addressed(seed)`, or draws (slots, B, ...) in the form of x, which receive
            their gradient.
        controls: (N, B, ...) in the form of x, added to the state at the start of each step: x_k <- x_k +
            controls[k].
        coefficients: (K,) the plan's numbers as `solvers.coefficients` lists them, in place of its own: they
            receive their gradient (by regions under `Checkpoint`); `solvers.compiled` makes them functions of
            times or parameters.
        gradient: a strategy; by default `Checkpoint()` where something requires grad; None samples under
            no_grad.
        callback: called with (k, t_k, a copy of x_k) for k = 0 .. N.
        progress: show a progress bar over the steps.
        keep_finite: where some samples are not finite, return NaN for these, warn, and let the others and their
            gradients be what they are without them; for one run more.

    Returns:
        (B, ...), in the form of x.

    Raises:
        ValueError: anything that does not fit, before the first network call: process, batch, noise,
            controls, cond, or a strategy where nothing requires grad. FloatingPointError: a sample that is
            not finite; the step is named.

    Cost: plan.nfe network calls, and the strategy's for the backward pass.
    """
    if is_dynamo_compiling():
        return in_one_graph(
            denoiser, plan, x, (), cond=cond, noise=noise, controls=controls, coefficients=coefficients,
            gradient=gradient, callback=callback is not None, progress=progress, keep_finite=keep_finite,
        )[0]  # fmt: skip
    check_arguments(denoiser, plan, x, cond=cond, noise=noise, controls=controls, coefficients=coefficients,
                    gradient=gradient, callback=callback)  # fmt: skip
    given = Given.of(denoiser, plan, x, cond, noise, controls, coefficients)
    return _run(given, gradient, (), callback, progress, keep_finite)[0]


def trajectory(
    denoiser: Model,
    plan: Plan,
    x: State | dict[str, State],
    at: Sequence[int],
    *,
    cond: Any = None,
    noise: Noise | State | None = None,
    controls: State | None = None,
    coefficients: Tensor | None = None,
    gradient: Gradient | None = Auto(),
    callback: Callback | None = None,
    progress: bool = False,
    keep_finite: bool = False,
) -> list[State]:
    """As `sample`, for losses on states along the way: the states at nodes `at`, 0 (x itself) to N (the sample).

    Each is the state before the control of its step, with gradients under every strategy; a continuous
    adjoint jumps there. Plans that are `staggered` (BDIA, OBELM, ReversibleHeun and its kin) hold another state between
    their steps, off by O(h): what they give at inner nodes comes with a warning.

    Raises:
        ValueError: as `sample`; a node that the plan does not have.
    """
    check_nodes(plan, at)
    inner = tuple(sorted({k for k in at if k < plan.steps}))
    if plan.staggered and any(inner):
        warnings.warn(
            f"trajectory: {plan.name} keeps a state beside the node's between its steps; what it gives at nodes "
            f"{inner} is off by a share of a step; take a plan of one state, such as DPMSolverPP(2), for losses along "
            "the way",
            stacklevel=2,
        )
    if is_dynamo_compiling():
        out, caught = in_one_graph(
            denoiser, plan, x, inner, cond=cond, noise=noise, controls=controls, coefficients=coefficients,
            gradient=gradient, callback=callback is not None, progress=progress, keep_finite=keep_finite,
        )  # fmt: skip
        return [caught[k] if k < plan.steps else out for k in at]
    check_arguments(denoiser, plan, x, cond=cond, noise=noise, controls=controls, coefficients=coefficients,
                    gradient=gradient, callback=callback)  # fmt: skip
    given = Given.of(denoiser, plan, x, cond, noise, controls, coefficients)
    out, caught = _run(given, gradient, inner, callback, progress, keep_finite)
    return [caught[k] if k < plan.steps else out for k in at]


def _run(
    given: Given,
    gradient: Gradient | None,
    at: tuple[int, ...],
    callback: Callback | None,
    progress: bool,
    keep_finite: bool,
) -> tuple[State, dict[int, State]]:
    """The sample, and the states that the steps `at` open with."""
    strategy, registers, packing = chosen(gradient, given), given.registers, given.start.packing
    with Watcher(given.start.plan, callback, progress, packing) as watcher:
        rollout = given.rollout(watcher.opened, at)
        states = _states(strategy, rollout, registers)
        watcher.ended(states[END])
    check_reached(gradient, states[END])
    if not finite(states[END]):
        if not keep_finite or transform():
            raise not_finite(rollout, registers, states[END])
        states = _kept(strategy, rollout, registers, states)
    out = {node: packing.unpack(state) for node, state in states.items()}
    return out.pop(END), out


def _states(strategy: Gradient | None, rollout: Rollout, registers: Registers) -> dict[int, Tensor]:
    """The states of one run: those it catches, by node, and the sample at END."""
    if strategy is None:
        with torch.no_grad():
            end = rollout.execute(dict(registers))["x"]
    else:
        end = strategy.run(rollout, dict(registers))["x"]
    states = {END: end, **rollout.caught}
    # the node around the run holds the rollout: a rollout that holds the node's outputs would never be freed, since
    # the collector does not see through autograd's graph
    rollout.caught.clear()
    return states


def _kept(
    strategy: Gradient | None, rollout: Rollout, registers: Registers, states: dict[int, Tensor]
) -> dict[int, Tensor]:
    """`states` with NaN for the samples that are not finite, and gradients as if these had not been there."""
    gone = lost(*states.values())
    if bool(gone.all()):
        raise not_finite(rollout, registers, states[END])
    warnings.warn(
        f"sample: not finite for {which_samples(gone)}; these are NaN and give no gradient. Without keep_finite the "
        "error names the step",
        RuntimeWarning,
        stacklevel=4,
    )
    if states[END].requires_grad:
        rollout, registers = without(rollout, registers, gone)
        states = _states(strategy, rollout, registers)
    return {node: blanked(state, gone) for node, state in states.items()}
