"""`optimise`: gradient descent on anything that enters a sampler."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...adjoint import Auto, Gradient
from ...adjoint.arguments import check_arguments
from ...adjoint.given import check_controls
from ...solvers import Addressed, Model, Noise, Plan
from ...solvers.checked import checked
from ...solvers.kinds import check_kind, described
from ...solvers.opening import carried, only_state, packed_noise
from ...solvers.packing import Packing, State, packing_of
from ...solvers.wanted import Count, Limit, NonNegative, Positive
from ..grad_mode import check_grad_mode
from ..loss import Loss
from .descent import LatentDescent
from .found import Result, Stop
from .least_squares import LeastSquares
from .priors import Prior, Priors
from .sample_levenberg import SampleLevenberg
from .sample_optimiser import SampleOptimiser
from .variables import Over, Variables

MakeOptimiser = Callable[[list[Tensor]], torch.optim.Optimizer]


@checked
def adam(lr: Positive = 0.05) -> MakeOptimiser:
    """Adam over all variables with one learning rate."""
    return lambda variables: torch.optim.Adam(variables, lr=lr)


@checked
def sgd(lr: Positive, momentum: NonNegative = 0.0, nesterov: bool = False) -> MakeOptimiser:
    """Gradient descent over all variables, with or without momentum."""
    return lambda variables: torch.optim.SGD(variables, lr=lr, momentum=momentum, nesterov=nesterov)


def check_callable_loss(loss: object) -> None:
    """Raise TypeError unless a loss can be called."""
    if not callable(loss):
        raise TypeError(
            f"loss: got {described(loss)}, expected a function of the sample; pass lambda x: ... (B,)"
        )


def check_optimiser(optimiser: object) -> None:
    """Raise TypeError unless it can be asked for an optimiser of variables."""
    if isinstance(optimiser, type) or not callable(optimiser):
        raise TypeError(
            f"optimiser: got {described(optimiser)}, expected a function from a list of variables to an optimiser; "
            "write adam(0.05), or lambda variables: torch.optim.AdamW(variables)"
        )


def made_optimiser(optimiser: MakeOptimiser, variables: list[Tensor]) -> torch.optim.Optimizer:
    """The optimiser of these variables. Raises TypeError where the function gives something else."""
    check_optimiser(optimiser)
    made = optimiser(variables)
    check_kind("optimiser", made, torch.optim.Optimizer, "a function that returns an optimiser; write adam(0.05) "
               "or lambda variables: torch.optim.AdamW(variables)")  # fmt: skip
    return made


@checked
def optimise(
    denoiser: Model,
    plan: Plan,
    loss: Loss,
    x: State,
    *,
    cond: Any = None,
    noise: Noise | State | None = None,
    controls: State | None = None,
    over: Over = Over(),
    optimiser: MakeOptimiser = adam(),
    steps: int = 50,
    prior: Prior | Priors | None = None,
    clip: Limit | None = None,
    gradient: Gradient = Auto(),
    patience: Count | None = None,
    tolerance: NonNegative = 0.0,
    project: Callable[[State], State] | None = None,
    progress: bool = True,
    keep_finite: bool = False,
) -> Result:
    """Minimise loss(sample) + prior over whatever enters the sampler.

    Args:
        loss: maps the sample (B, ...) to (B,); one sample's loss must not depend on its batch mates.
        x, noise, controls: as for `sample`. Of a joint state the leaves are one variable, side by side: one norm to
            clip, one prior.
        over: which inputs to change. Noise from a counter is turned into tensors when it is optimised;
            controls start at zero; `parameters` changes the network in place and leaves it at its best.
        optimiser: makes a torch optimiser from the list of variables, each with its batch axis first: x (B,
            ...), noise (B, slots, ...), controls (B, N, ...). torch's LBFGS couples batch mates; `lbfgs()`
            does not.
        prior: penalty on x, or `Priors` on x, noise and controls (a running cost). project: applied to x
            after each step.
        clip: greatest norm of a sample's gradient, all its variables together; shared variables have one
            norm.
        gradient: the strategy that differentiates the run.
        patience: a sample keeps the best it has after this many steps without its loss falling by more than
            `tolerance`; the run stops when that goes for all. Where they share variables, the total counts.
        keep_finite: go on where some samples, their losses or those losses' slopes are not finite: of these only
            the prior is descended until they are, and they are NaN in the Result if they never were.

    Returns:
        A Result at the best point seen. Ctrl-C and a loss or gradient that is not finite end early with it; the
        latter warns and names the step. Where the very first is not finite it raises FloatingPointError.

    Cost: each evaluation plan.nfe forwards and plan.nfe VJPs, plus the strategy's replays; one run more at
    the end.
    """
    check_grad_mode("optimise")
    check_arguments(denoiser, plan, x, cond=cond, noise=noise, controls=controls, gradient=gradient)
    check_kind("over", over, Over, "Over(...); name what to optimise: Over(x=True, cond=True)")
    gradient.check(plan, over.inputs)
    check_optimiser(optimiser)
    check_callable_loss(loss)
    if steps < 1:
        raise ValueError(f"optimise: got steps={steps}, expected at least 1; one step is one gradient")
    x = only_state(plan, x, "optimise")
    form, given = packing_of(x), noise
    denoiser, plan, x, noise = (
        form.model(denoiser),
        form.plan(plan),
        carried(form.pack(x)),
        packed_noise(noise, form),
    )
    controls = None if controls is None else form.pack(controls, "controls", lead=1)
    if controls is not None:
        check_controls(controls, plan.steps, x)
    inputs = Variables.of(over, denoiser, plan, x, cond, noise, controls)
    priors = prior if isinstance(prior, Priors) else Priors(x=prior)
    priors.check(over.noise, over.controls)
    descent = made_optimiser(optimiser, inputs.variables)
    if isinstance(descent, SampleOptimiser) and (inputs.shared or project is not None):
        raise ValueError(
            f"optimiser: got {descent.called} with variables that samples share or a projection, expected x, noise or "
            "controls that move freely; use adam() or torch's LBFGS"
        )
    if isinstance(descent, SampleLevenberg) and (clip is not None or keep_finite):
        raise ValueError(
            f"optimiser: got levenberg() with clip={clip}, keep_finite={keep_finite}, expected None and False: its "
            "region limits every step, and a step to what is not finite is not taken; leave them out"
        )
    moves = None if project is None or not over.x else lambda x: form.pack(project(form.unpack(x)))
    run = LatentDescent(
        denoiser, plan, _over_packed(loss, form), priors, inputs, descent, clip, gradient, moves,
        keep_finite,
    )  # fmt: skip
    try:
        stop = run.descend(steps, patience, tolerance, progress)
    except KeyboardInterrupt:
        stop = Stop.INTERRUPT
    except FloatingPointError as error:
        if not run.losses:
            raise
        stop = Stop.NAN
        warnings.warn(f"optimise stopped at step {run.step}, the best so far is kept: {error}", stacklevel=2)
    found = run.result(stop, noise.seed if isinstance(noise, Addressed) else None)
    return replace(
        found,
        sample=form.unpack(found.sample),
        x=form.unpack(found.x),
        noise=given
        if isinstance(given, Noise | None) and not over.noise
        else form.unpack(found.noise, lead=1),
        controls=None if found.controls is None else form.unpack(found.controls, lead=1),
    )


def _over_packed(loss: Loss, form: Packing) -> Loss:
    """`loss` of packed samples."""
    if isinstance(loss, LeastSquares):
        return replace(loss, residuals=lambda out: loss.residuals(form.unpack(out)))
    return lambda out: loss(form.unpack(out))
