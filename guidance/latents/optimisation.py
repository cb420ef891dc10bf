"""`optimise`: gradient descent on anything that enters a sampler."""

import enum
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ...adjoint import Auto, Gradient, sample
from ...adjoint.arguments import check_arguments
from ...adjoint.given import check_controls
from ...adjoint.not_finite import lost, which_samples
from ...adjoint.transforms import finite
from ...solvers import Addressed, Model, Noise, Plan
from ...solvers.broadcast import per_sample
from ...solvers.checked import checked
from ...solvers.kinds import check_kind, described
from ...solvers.opening import carried, only_state, packed_noise
from ...solvers.packing import State, packing_of
from ...solvers.wanted import Count, Limit, NonNegative, Positive
from ..grad_mode import check_grad_mode
from ..loss import Loss, check_loss
from .best_points import BestPoints
from .patience import Patience
from .priors import Prior, Priors
from .sample_lbfgs import SampleLBFGS
from .variables import Over, Variables, clip_

MakeOptimiser = Callable[[list[Tensor]], torch.optim.Optimizer]


class Stop(enum.Enum):
    """Why `optimise` ended."""

    STEPS = "all steps done, converged or not"
    CONVERGED = "every sample's gradient or loss has settled"
    STALLED = "no sample finds a lower loss, and not all have converged"
    PATIENCE = "no improvement within the patience"
    INTERRUPT = "interrupted"
    NAN = "the loss or its gradient was not finite"


@dataclass(frozen=True)
class Result:
    """The best point found and how it was found. Every tensor is detached.

    Attributes:
        sample: (B, ...) at the best point, in the form of x;  x, noise, cond, controls: the inputs that give it.
        loss: (B,) the loss at the best point, prior included;  losses: (evaluations, B), one row per
            evaluation.
        nfe, vjps: network calls forward (replays included) and backward.
        seed: of the noise source, where it has one;  stop: why it ended;  step: the last step begun.
        converged: (B,) by the optimiser's own test, where it has one: `lbfgs()`.
    """

    sample: State
    x: State
    noise: Any
    cond: Any
    controls: State | None
    loss: Tensor
    losses: Tensor
    nfe: int
    vjps: int
    seed: int | None
    stop: Stop
    step: int
    converged: Tensor | None = None


@checked
def adam(lr: Positive = 0.05) -> MakeOptimiser:
    """Adam over all variables with one learning rate."""
    return lambda variables: torch.optim.Adam(variables, lr=lr)


@checked
def sgd(lr: Positive, momentum: NonNegative = 0.0, nesterov: bool = False) -> MakeOptimiser:
    """Gradient descent over all variables, with or without momentum."""
    return lambda variables: torch.optim.SGD(variables, lr=lr, momentum=momentum, nesterov=nesterov)


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
    if isinstance(optimiser, type) or not callable(optimiser):
        raise TypeError(
            f"optimiser: got {described(optimiser)}, expected a function from a list of variables to an optimiser; "
            "write adam(0.05), or lambda variables: torch.optim.AdamW(variables)"
        )
    if not callable(loss):
        raise TypeError(
            f"loss: got {described(loss)}, expected a function of the sample; pass lambda x: ... (B,)"
        )
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
    descent = optimiser(inputs.variables)
    check_kind("optimiser", descent, torch.optim.Optimizer, "a function that returns an optimiser; write adam(0.05) "
               "or lambda variables: torch.optim.AdamW(variables)")  # fmt: skip
    if isinstance(descent, SampleLBFGS) and (inputs.shared or project is not None):
        raise ValueError(
            "optimiser: got lbfgs() with variables that samples share or a projection, expected x, noise or "
            "controls that move freely; use adam() or torch's LBFGS"
        )
    moves = None if project is None or not over.x else lambda x: form.pack(project(form.unpack(x)))
    run = _Run(
        denoiser, plan, lambda out: loss(form.unpack(out)), priors, inputs, descent, clip, gradient, moves,
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


@dataclass(eq=False)
class _Run:
    """One descent: evaluate, remember the best, step, until told to stop."""

    denoiser: Model
    plan: Plan
    loss: Loss
    priors: Priors
    inputs: Variables
    optimiser: torch.optim.Optimizer
    clip: float | None
    gradient: Gradient
    project: Callable[[Tensor], Tensor] | None
    keep_finite: bool
    losses: list[Tensor] = field(default_factory=list)  # (B,) for every evaluation
    step: int = 0
    variables: list[Tensor] = field(init=False)
    best: BestPoints = field(init=False)

    def __post_init__(self) -> None:
        self.variables = self.inputs.variables
        self.best = BestPoints(separate=not self.inputs.shared)

    def descend(self, steps: int, patience: int | None, tolerance: float, progress: bool) -> Stop:
        """Take optimiser steps until they are used up or stop helping."""
        waits = Patience(patience, tolerance)
        with tqdm(range(steps), disable=not progress) as bar:
            for step in bar:
                self.step = step
                self.advance()
                bar.set_postfix(loss=f"{float(self.losses[-1].nansum()):.4g}")
                if isinstance(self.optimiser, SampleLBFGS) and bool(self.optimiser.done.all()):
                    return Stop.CONVERGED if bool(self.optimiser.converged.all()) else Stop.STALLED
                self.best.closed = waits.over(self.best.figure)
                if bool(self.best.closed.all()):
                    return Stop.PATIENCE
        return Stop.STEPS

    def advance(self) -> None:
        """One optimiser step, of one evaluation or (a line search) several, and the projection."""
        self.optimiser.step(self.closure)
        if self.project is not None:
            with torch.no_grad():
                self.inputs.x.copy_(self.project(self.inputs.x))

    def closure(self) -> Any:
        """An evaluation as the optimiser wants it: losses (B,) to search sample by sample, else their sum."""
        loss = self.evaluate()
        return loss if isinstance(self.optimiser, SampleLBFGS) else float(loss.sum())

    def evaluate(self) -> Tensor:
        """Loss and prior (B,) where the variables are now; leaves their gradients in `grad`."""
        self.optimiser.zero_grad()
        found = self.sampled(self.gradient)
        value = self.loss(found)
        check_loss(value, len(found))
        rows = self.inputs.rows
        penalty = self.priors(self.inputs.x, rows.get("noise"), rows.get("controls"))
        loss = (value + penalty).detach()
        kept = loss.isfinite()
        if not bool(kept.all()):
            self._lose(
                ~kept, f"loss: not finite {self._at(~kept)}: got {loss.tolist()}, expected finite values"
            )
            value = torch.where(kept, value, 0.0)

        def cut(slope: Tensor) -> Tensor:
            """The loss's gradient where it enters the sampler, inside of which 0 * NaN would be NaN for mates too."""
            nonlocal kept
            broken = lost(slope) & kept
            if bool(broken.any()):
                self._lose(~kept | broken, f"loss: got a gradient that is not finite {self._at(broken)}, expected a "
                           "finite slope where the loss is finite (sqrt and norm have none at 0)")  # fmt: skip
            kept = kept & ~broken
            return torch.where(per_sample(kept, slope), slope, 0.0)

        found.register_hook(cut)
        grads = torch.autograd.grad((value + penalty).sum(), self.variables, allow_unused=True)
        self._check_gradients(grads)
        loss = loss.masked_fill(~kept, torch.nan)
        self.losses.append(loss)
        self.best.offer(loss, self.variables)
        self.set_gradients(grads)
        return loss

    def _at(self, broken: Tensor) -> str:
        return f"at step {self.step} for {which_samples(broken)}"

    def _lose(self, gone: Tensor, what: str) -> None:
        """Raise FloatingPointError where the samples that are `gone` may not be lost, or are all."""
        if not self.keep_finite or bool(gone.all()):
            others = "" if bool(gone.all()) else ", or let the others go on with keep_finite=True"
            raise FloatingPointError(f"{what}; check the loss there{others}")

    def _check_gradients(self, grads: tuple[Tensor | None, ...]) -> None:
        """Raise FloatingPointError where the sampler or the prior has made a finite slope infinite."""
        broken = [grad for grad in grads if grad is not None and not finite(grad)]
        if broken:
            rows = any(broken[0] is grad for grad in grads[: len(self.inputs.own)])
            where = self._at(lost(broken[0])) if rows else f"at step {self.step}"
            raise FloatingPointError(
                f"gradient: not finite {where}, though the loss and its slope are, expected finite values; mend the "
                "derivative of the network or the prior there (sqrt and norm have none at 0), or use a wider dtype"
            )

    def sampled(self, gradient: Gradient | None) -> Tensor:
        """The sample where the variables are now."""
        return sample(
            self.denoiser,
            self.plan,
            gradient=gradient,
            keep_finite=self.keep_finite,
            **self.inputs.entering(),
        )

    def set_gradients(self, grads: tuple[Tensor | None, ...]) -> None:
        """Clip and hand to the variables."""
        if self.clip is not None:
            own = len(self.inputs.own)
            clip_(grads[:own], grads[own:], self.clip)
        for variable, grad in zip(self.variables, grads, strict=True):
            variable.grad = grad

    def result(self, stop: Stop, seed: int | None) -> Result:
        """The best point seen, put back into the variables and sampled once more."""
        if self.best.loss is None:
            raise KeyboardInterrupt("optimise: interrupted before the first loss was known")
        with torch.no_grad():
            for variable, value in zip(self.variables, self.best.values, strict=True):
                variable.copy_(value)
                variable.grad = None
        final = self.sampled(None)
        nfe, vjps = self.gradient.cost(self.plan)
        evaluations = len(self.losses)
        return Result(
            sample=final,
            **self.inputs.detached(),
            loss=self.best.loss,
            losses=torch.stack(self.losses),
            nfe=nfe * evaluations + self.plan.nfe,
            vjps=vjps * evaluations,
            seed=seed,
            stop=stop,
            step=self.step,
            converged=self.optimiser.converged if isinstance(self.optimiser, SampleLBFGS) else None,
        )
