"""LatentDescent: evaluate, remember the best, step, until told to stop."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...adjoint import Gradient, sample
from ...adjoint.not_finite import lost, which_samples
from ...adjoint.transforms import finite
from ...solvers import Model, Plan
from ...solvers.broadcast import per_sample
from ...solvers.progress import progress_bar
from ..loss import Loss, check_graph, check_loss
from .best_points import BestPoints
from .found import Result, Stop
from .local_model import LocalModel, modelled
from .patience import Patience
from .priors import Priors
from .sample_levenberg import SampleLevenberg
from .sample_optimiser import SampleOptimiser
from .variables import Variables, clip_


@dataclass(eq=False)
class LatentDescent:
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
        with progress_bar(range(steps), disable=not progress) as bar:
            for step in bar:
                self.step = step
                self.advance()
                bar.set_postfix(loss=f"{float(self.losses[-1].nansum()):.4g}")
                if isinstance(self.optimiser, SampleOptimiser) and bool(self.optimiser.done.all()):
                    return Stop.CONVERGED if bool(self.optimiser.converged.all()) else Stop.STALLED
                self.best.closed = waits.over(self.best.figure)
                if bool(self.best.closed.all()):
                    return Stop.PATIENCE
        return Stop.STEPS

    def advance(self) -> None:
        """One optimiser step, of one evaluation or (a line search) several, and the projection."""
        looks = self.around if isinstance(self.optimiser, SampleLevenberg) else self.closure
        self.optimiser.step(looks)  # type: ignore[arg-type]
        if self.project is not None:
            with torch.no_grad():
                self.inputs.x.copy_(self.project(self.inputs.x))

    def closure(self) -> Any:
        """An evaluation as the optimiser wants it: losses (B,) to search sample by sample, else their sum."""
        loss = self.evaluate()
        return loss if isinstance(self.optimiser, SampleOptimiser) else float(loss.sum())

    def around(self, flat: Tensor) -> LocalModel:
        """The objective around variables (B, d), for an optimiser that asks for its curvature."""
        assert isinstance(self.optimiser, SampleLevenberg)
        self.optimiser.write(flat)
        made = modelled(
            self.denoiser, self.plan, self.inputs, self.loss, self.priors, self.gradient, self.optimiser.by
        )
        loss = made.value
        if not self.losses:  # later ones are steps that are not taken
            if not bool(loss.isfinite().all()):
                self._lose(~loss.isfinite(), f"loss: not finite {self._at(~loss.isfinite())}: got {loss.tolist()}, "
                           "expected finite values")  # fmt: skip
            _ = made.slope
        self.losses.append(loss)
        self.best.offer(loss, self.variables)
        return made

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

        check_graph(value + penalty, "the sample", "pass BlackBox(loss, noise)")
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
            way = (
                "leave the samples out"
                if isinstance(self.optimiser, SampleLevenberg)
                else "let the others go on with keep_finite=True"
            )
            others = "" if bool(gone.all()) else f", or {way}"
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
        (calls, vjps), evaluations = self.gradient.cost(self.plan), len(self.losses)
        lm = self.optimiser if isinstance(self.optimiser, SampleLevenberg) else None
        pulled = evaluations if lm is None else lm.pulled
        return Result(
            sample=final,
            **self.inputs.detached(),
            loss=self.best.loss,
            losses=torch.stack(self.losses),
            # the run of every evaluation and of the sample, and the replays of every backward pass
            nfe=self.plan.nfe * (evaluations + 1) + (calls - self.plan.nfe) * pulled,
            vjps=vjps * pulled,
            seed=seed,
            stop=stop,
            step=self.step,
            converged=self.optimiser.converged if isinstance(self.optimiser, SampleOptimiser) else None,
            jvps=0 if lm is None else self.plan.nfe * lm.pushed,
        )
