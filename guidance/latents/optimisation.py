"""`optimise`: gradient descent on anything that enters a sampler."""

import enum
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from tqdm.auto import tqdm

from ...adjoint import Checkpoint, Gradient, PerStep, sample
from ...solvers import Addressed, Model, Noise, Plan
from ...solvers.broadcast import per_sample
from ..loss import Loss
from .priors import Prior, Priors
from .sample_lbfgs import SampleLBFGS
from .variables import as_tensor, clip_, detached, tensors, variable

MakeOptimiser = Callable[[list[Tensor]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Over:
    """What to optimise: the starting state, injected noise, conditioning, controls, denoiser parameters."""

    x: bool = True
    noise: bool = False
    cond: bool = False
    controls: bool = False
    parameters: bool = False


class Stop(enum.Enum):
    """Why `optimise` ended."""

    STEPS = "all steps done"
    PATIENCE = "no improvement within the patience"
    INTERRUPT = "interrupted"
    NAN = "the loss was not finite"


@dataclass(frozen=True)
class Result:
    """The best point found and how it was found. Every tensor is detached.

    Attributes:
        sample: (B, ...) at the best point;  x, noise, cond, controls: the inputs that give it.
        loss: (B,) the loss at the best point, prior included;  losses: (evaluations, B), one row per
            evaluation.
        nfe, vjps: network calls forward (replays included) and backward.
        seed: of the noise source, where it has one;  stop: why it ended;  step: the last step begun.
    """

    sample: Tensor
    x: Tensor
    noise: Tensor | Noise | None
    cond: Any
    controls: Tensor | None
    loss: Tensor
    losses: Tensor
    nfe: int
    vjps: int
    seed: int | None
    stop: Stop
    step: int


def adam(lr: float = 0.05) -> MakeOptimiser:
    """Adam over all variables with one learning rate."""
    return lambda variables: torch.optim.Adam(variables, lr=lr)


class _Best:
    """The best inputs so far: sample by sample where batch mates share nothing, else by the total."""

    def __init__(self, separate: bool) -> None:
        self.separate, self.loss, self.values = separate, None, []

    def offer(self, loss: Tensor, values: list[Tensor]) -> None:
        copies = [value.detach().clone() for value in values]
        if self.loss is None:
            self.loss, self.values = loss.clone(), copies
            return
        better = loss < self.loss if self.separate else (loss.sum() < self.loss.sum()).expand_as(loss)
        if not self.separate and not bool(better.any()):
            return
        self.loss = torch.where(better, loss, self.loss)
        if self.separate:
            copies = [
                torch.where(per_sample(better, new), new, old)
                for new, old in zip(copies, self.values, strict=True)
            ]
        self.values = copies


def optimise(
    denoiser: Model,
    plan: Plan,
    loss: Loss,
    x: Tensor,
    *,
    cond: Any = None,
    noise: Noise | Tensor | None = None,
    controls: Tensor | None = None,
    over: Over = Over(),
    optimiser: MakeOptimiser = adam(),
    steps: int = 50,
    prior: Prior | Priors | None = None,
    clip: float | None = None,
    gradient: Gradient = Checkpoint(),
    patience: int | None = None,
    tolerance: float = 0.0,
    project: Callable[[Tensor], Tensor] | None = None,
    progress: bool = True,
) -> Result:
    """Minimise loss(sample) + prior over whatever enters the sampler.

    Args:
        loss: maps the sample (B, ...) to (B,); one sample's loss must not depend on its batch mates.
        over: which inputs to change. Noise from a counter is turned into tensors when it is optimised;
            controls start at zero; `parameters` changes the network in place and leaves it at its best.
        optimiser: makes a torch optimiser from the list of variables, each with its batch axis first: x (B,
            ...), noise (B, slots, ...), controls (B, N, ...). torch's LBFGS couples batch mates; `lbfgs()`
            does not.
        prior: penalty on x, or `Priors` on x, noise and controls (a running cost). project: applied to x
            after each step.
        clip: greatest norm of a sample's gradient, all its variables together; shared variables have one
            norm.
        patience: stop after this many steps without the total falling by more than `tolerance`.

    Returns:
        A Result at the best point seen. Ctrl-C and a loss that is not finite end early with it; the latter
        warns and names the step. Where the very first loss is not finite it raises FloatingPointError.

    Cost: each evaluation plan.nfe forwards and plan.nfe VJPs, plus the strategy's replays; one run more at
    the end.
    """
    if steps < 1:
        raise ValueError(f"optimise: got steps={steps}, expected at least 1")
    x = x.detach().clone().requires_grad_(over.x)
    seed = noise.seed if isinstance(noise, Addressed) else None
    own = (
        [x] if over.x else []
    )  # one row a sample: noise and controls are turned so that the batch comes first
    if over.noise:
        noise = (
            as_tensor(noise, plan, x)
            .movedim(1, 0)
            .clone(memory_format=torch.contiguous_format)
            .requires_grad_()
        )
        own.append(noise)
    if over.controls:
        start = (
            torch.zeros(plan.steps, *x.shape, dtype=x.dtype, device=x.device)
            if controls is None
            else controls.detach()
        )
        controls = start.movedim(1, 0).clone(memory_format=torch.contiguous_format).requires_grad_()
        own.append(controls)
    if over.cond:
        cond = tree_map(variable, cond, is_leaf=lambda leaf: isinstance(leaf, PerStep))
    weights = [p for p in denoiser.parameters() if p.requires_grad] if over.parameters else []
    shared = [*(tensors(cond) if over.cond else []), *weights]
    variables = own + shared
    if not variables:
        raise ValueError(
            f"optimise: got {over} and nothing to change, expected at least one variable; turn one on in "
            "over=Over(...) and pass what it names"
        )
    priors = prior if isinstance(prior, Priors) else Priors(x=prior)
    priors.check(over.noise, over.controls)

    def entering() -> dict[str, Any]:
        return {
            "noise": noise.movedim(0, 1) if over.noise and isinstance(noise, Tensor) else noise,
            "controls": controls.movedim(0, 1) if over.controls and controls is not None else controls,
        }

    best, maker = _Best(separate=not shared), optimiser(variables)
    if isinstance(maker, SampleLBFGS) and (shared or project is not None):
        raise ValueError(
            "optimiser: got lbfgs() with variables that samples share or a projection, expected x, noise or "
            "controls that move freely; use adam() or torch's LBFGS"
        )
    rows: list[Tensor] = []
    stop, step, stale, least = Stop.STEPS, 0, 0, float("inf")

    def evaluate() -> Tensor:
        maker.zero_grad()
        value = loss(sample(denoiser, plan, x, cond=cond, gradient=gradient, **entering()))
        if value.shape != (len(x),):
            raise ValueError(
                f"loss: got shape {tuple(value.shape)}, expected ({len(x)},): one value per sample; reduce "
                "over every axis but the first"
            )
        value = value + priors(x, noise if isinstance(noise, Tensor) else None, controls)
        if not bool(torch.isfinite(value.detach()).all()):
            raise FloatingPointError(f"loss: not finite at step {step}: got {value.detach().tolist()}")
        rows.append(value.detach().clone())
        best.offer(rows[-1], variables)
        grads = torch.autograd.grad(value.sum(), variables, allow_unused=True)
        if clip is not None:
            clip_(grads[: len(own)], grads[len(own) :], clip)
        for changed, grad in zip(variables, grads, strict=True):
            changed.grad = grad
        return rows[-1]

    def closure() -> Any:
        return evaluate() if isinstance(maker, SampleLBFGS) else float(evaluate().sum())

    bar = tqdm(range(steps), disable=not progress)
    try:
        for step in bar:  # noqa: B007  (the closure and the messages read it)
            maker.step(closure)
            if project is not None and over.x:
                with torch.no_grad():
                    x.copy_(project(x))
            total = float(rows[-1].sum())
            bar.set_postfix(loss=f"{total:.4g}")
            stale = 0 if total < least - tolerance else stale + 1
            least = min(least, total)
            if patience is not None and stale > patience:
                stop = Stop.PATIENCE
                break
    except KeyboardInterrupt:
        stop = Stop.INTERRUPT
    except FloatingPointError as error:
        if not rows:
            raise
        stop = Stop.NAN
        warnings.warn(f"optimise stopped at step {step}, the best so far is kept: {error}", stacklevel=2)
    finally:
        bar.close()
    if best.loss is None:
        raise KeyboardInterrupt("optimise: interrupted before the first loss was known")
    with torch.no_grad():
        for changed, value in zip(variables, best.values, strict=True):
            changed.copy_(value)
            changed.grad = None
    final = sample(denoiser, plan, x, cond=cond, gradient=None, **entering())
    found, (calls, vjps) = detached({"x": x, "cond": cond, **entering()}), gradient.cost(plan)
    return Result(
        final,
        found["x"],
        found["noise"],
        found["cond"],
        found["controls"],
        best.loss,
        torch.stack(rows),
        calls * len(rows) + plan.nfe,
        vjps * len(rows),
        seed,
        stop,
        step,
    )
