"""End to end: what enters the sampler moved by the gradient of the loss at the sample."""

from dataclasses import dataclass

from torch import Tensor

from ...adjoint import Auto, Gradient
from ...solvers import Addressed
from ...solvers.kinds import described
from ...solvers.wanted import Count, NonNegative, Positive
from ..latents.black_box import BlackBox
from ..latents.optimisation import MakeOptimiser, adam, optimise
from ..latents.priors import Prior, Priors
from ..latents.variables import Over
from ..loss import Loss
from .blends import LatentBlend
from .latent import Latents
from .pair_loss import PairLoss
from .scene import Scene
from .strategy import Found, MorphStrategy, started


@dataclass(frozen=True)
class EndToEnd(MorphStrategy):
    """`optimise` over the start, the injected noise, the conditioning, by any gradient of the library, from where
    `start` ends. Each sample keeps the best point seen.

    Args:
        over: what moves; conditioning by `Over(cond=True, cond_rows=True)`, so that every pair's is its own.
        gradient: the strategy that differentiates the run; `AdjointDEIS()` as published, of the ODE or, on a stochastic
            plan, of the SDE.
        leash: weighs mean |x - x_start|^2, x_start the image that `start` ends with: what is moved for one recogniser
            only, and says nothing to another, is not worth its way.
        prior, clip, patience: as for `optimise`.
        differences: where given, recognisers need no gradient: the loss's own slope at the sample is measured by
            `directions` pairs of differences of length `width`, drawn from here, and goes back through the sampler
            exactly (`BlackBox`).

    Source: Blasingame and Liu 2024, AdjointDEIS, arXiv 2405.15020, section 5 (gradient descent, 50 steps, over start
    and semantic code). Cost: `start`'s, and `steps` times the gradient's.
    """

    start: MorphStrategy = LatentBlend()
    over: Over = Over()
    gradient: Gradient = Auto()
    optimiser: MakeOptimiser = adam(0.02)
    steps: int = 40
    leash: NonNegative = 0.0
    prior: Prior | Priors | None = None
    clip: float | None = None
    patience: int | None = None
    differences: Addressed | None = None
    directions: Count = 16
    width: Positive = 0.03

    def __post_init__(self) -> None:
        if self.over.parameters or self.over.controls:
            raise ValueError(
                f"EndToEnd: got {self.over}, expected start, noise or conditioning: weights are shared by all pairs, "
                "and controls leave no latents; call `optimise` for those"
            )
        if self.steps < 1 or not callable(self.optimiser):
            raise ValueError(
                f"EndToEnd: got steps={self.steps}, optimiser={described(self.optimiser)}, expected at least one step "
                "and a function from a list of variables to an optimiser; write steps=40, optimiser=adam(0.05)"
            )
        if self.over.cond and not self.over.cond_rows:
            raise ValueError(
                f"EndToEnd: got {self.over}, under which pairs would share their conditioning, expected a row for "
                "each; add cond_rows=True"
            )

    @property
    def differentiates(self) -> bool:  # type: ignore[override]
        return self.differences is None

    def parts(self) -> tuple[MorphStrategy, ...]:
        return (self.start,)

    def run(self, scene: Scene, loss: PairLoss) -> Found:
        self.gradient.check(scene.plan, self.over.inputs)
        latents, begun = started(self.start, scene, loss, "EndToEnd")

        def measured(images: Tensor) -> Tensor:
            return loss(images) + self.leash * (images - begun).flatten(1).square().mean(1)

        slope: Loss = measured
        if self.differences is not None:
            slope = BlackBox(measured, self.differences, self.directions, self.width)
        result = optimise(
            scene.model,
            scene.plan,
            slope,
            latents.state,
            cond=latents.cond,
            noise=scene.drawn(latents),
            over=self.over,
            optimiser=self.optimiser,
            steps=self.steps,
            prior=self.prior,
            clip=self.clip,
            gradient=self.gradient,
            patience=self.patience,
            progress=scene.progress,
        )
        scene.spent.nfe += result.nfe
        scene.spent.vjps += result.vjps
        noise = result.noise if isinstance(result.noise, Tensor) else latents.noise
        return Found(result.sample, Latents(result.x, noise, result.cond), result.stop)
