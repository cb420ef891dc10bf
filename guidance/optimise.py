"""`optimise`: gradient descent on anything that enters a sampler."""

import enum
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from tqdm.auto import tqdm

from ..adjoint import Checkpoint, Gradient, PerStep, sample
from ..solvers import Addressed, Model, Noise, Plan
from .priors import Prior

Loss = Callable[[Tensor], Tensor]
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
        loss: (B,) the loss at the best point, prior included;  losses: (evaluations, B), one row per evaluation.
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

    def offer(self, loss: Tensor, values: list[tuple[Tensor, int | None]]) -> None:
        copies = [value.detach().clone() for value, _ in values]
        if self.loss is None:
            self.loss, self.values = loss.clone(), copies
            return
        better = loss < self.loss if self.separate else (loss.sum() < self.loss.sum()).expand_as(loss)
        if not self.separate and not bool(better.any()):
            return
        self.loss = torch.where(better, loss, self.loss)
        for k, ((_, axis), copy) in enumerate(zip(values, copies, strict=True)):
            if self.separate and axis is not None:
                shape = [1] * copy.ndim
                shape[axis] = -1
                copy = torch.where(better.reshape(shape), copy, self.values[k])
            self.values[k] = copy


def optimise(denoiser: Model, plan: Plan, loss: Loss, x: Tensor, *, cond: Any = None, noise: Noise | Tensor | None = None,
             controls: Tensor | None = None, over: Over = Over(), optimiser: MakeOptimiser = adam(),  # noqa: B008
             steps: int = 50, prior: Prior | None = None, gradient: Gradient = Checkpoint(), patience: int | None = None,  # noqa: B008
             tolerance: float = 0.0, project: Callable[[Tensor], Tensor] | None = None, progress: bool = True) -> Result:
    """Minimise loss(sample) + prior(x) over whatever enters the sampler.

    Args:
        loss: maps the sample (B, ...) to (B,); one sample's loss must not depend on its batch mates.
        over: which inputs to change. Noise from a counter is turned into tensors when it is optimised; controls start at
            zero; `parameters` changes the network in place and leaves it at its best.
        optimiser: makes a torch optimiser from the list of variables; LBFGS works (it couples batch mates: use B = 1).
        prior: penalty on x. project: applied to x after each step (a sphere, a box).
        patience: stop after this many steps without the total falling by more than `tolerance`.

    Returns:
        A Result at the best point seen. Ctrl-C and a loss that is not finite end early with it; the latter warns and
        names the step. Where the very first loss is not finite it raises FloatingPointError.

    Cost: each evaluation plan.nfe forwards and plan.nfe VJPs, plus the strategy's replays; one run more at the end.
    """
    if steps < 1:
        raise ValueError(f"optimise: got steps={steps}, expected at least 1")
    x = x.detach().clone().requires_grad_(over.x)
    seed = noise.seed if isinstance(noise, Addressed) else None
    if over.noise:
        noise = _as_tensor(noise, plan, x).requires_grad_()
    if over.controls:
        start = torch.zeros(plan.steps, *x.shape, dtype=x.dtype, device=x.device) if controls is None else controls
        controls = start.detach().clone().requires_grad_()
    if over.cond:
        cond = tree_map(_variable, cond, is_leaf=lambda leaf: isinstance(leaf, PerStep))
    weights = [p for p in denoiser.parameters() if p.requires_grad] if over.parameters else []
    batched: list[tuple[Tensor, int | None]] = [(x, 0)] if over.x else []
    batched += [(noise, 1)] if isinstance(noise, Tensor) and over.noise else []
    batched += [(controls, 1)] if controls is not None and over.controls else []
    shared = [*(_tensors(cond) if over.cond else []), *weights]
    variables = [value for value, _ in batched] + shared
    if not variables:
        raise ValueError(f"optimise: got {over} and nothing to change, expected at least one variable; turn one on in "
                         "over=Over(...) and pass what it names")
    best, maker = _Best(separate=not shared), optimiser(variables)
    rows: list[Tensor] = []
    stop, step, stale, least = Stop.STEPS, 0, 0, float("inf")

    def closure() -> float:
        maker.zero_grad()
        value = loss(sample(denoiser, plan, x, cond=cond, noise=noise, controls=controls, gradient=gradient))
        if value.shape != (len(x),):
            raise ValueError(f"loss: got shape {tuple(value.shape)}, expected ({len(x)},): one value per sample; reduce over "
                             "every axis but the first")
        value = value if prior is None else value + prior(x)
        if not bool(torch.isfinite(value.detach()).all()):
            raise FloatingPointError(f"loss: not finite at step {step}: got {value.detach().tolist()}")
        rows.append(value.detach().clone())
        best.offer(rows[-1], [*batched, *((value, None) for value in shared)])
        grads = torch.autograd.grad(value.sum(), variables, allow_unused=True)
        for variable, grad in zip(variables, grads, strict=True):
            variable.grad = grad
        return float(value.detach().sum())

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
        for variable, value in zip(variables, best.values, strict=True):
            variable.copy_(value)
            variable.grad = None
    final = sample(denoiser, plan, x, cond=cond, noise=noise, controls=controls, gradient=None)
    free, (calls, vjps) = _detached, gradient.cost(plan)
    return Result(final, free(x), free(noise), free(cond), free(controls), best.loss, torch.stack(rows),
                  calls * len(rows) + plan.nfe, vjps * len(rows), seed, stop, step)


def _variable(leaf: Any) -> Any:
    if isinstance(leaf, PerStep):
        return PerStep(leaf.values.detach().clone().requires_grad_())
    if isinstance(leaf, Tensor) and leaf.is_floating_point():
        return leaf.detach().clone().requires_grad_()
    return leaf


def _tensors(cond: Any) -> Iterable[Tensor]:
    leaves = tree_leaves(cond, is_leaf=lambda leaf: isinstance(leaf, PerStep))
    found = (leaf.values if isinstance(leaf, PerStep) else leaf for leaf in leaves)
    return [leaf for leaf in found if isinstance(leaf, Tensor) and leaf.requires_grad]


def _as_tensor(noise: Noise | Tensor | None, plan: Plan, x: Tensor) -> Tensor:
    if noise is None or not plan.slots:
        raise ValueError(f"optimise over noise: got noise={noise} and a plan with {plan.slots} noise slots, expected a stochastic "
                         "plan and noise=Addressed(seed) or a tensor (slots, B, ...)")
    if isinstance(noise, Tensor):
        return noise.detach().clone()
    noise.check(plan.slots, x)
    return torch.stack([noise(slot, x.detach()) for slot in range(plan.slots)])


def _detached(value: Any) -> Any:
    def free(leaf: Any) -> Any:
        if isinstance(leaf, PerStep):
            return PerStep(leaf.values.detach())
        return leaf.detach() if isinstance(leaf, Tensor) else leaf

    return tree_map(free, value, is_leaf=lambda leaf: isinstance(leaf, PerStep))
