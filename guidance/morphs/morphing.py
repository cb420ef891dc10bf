"""`morph`: two subjects in one image."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...adjoint.arguments import check_model_and_plan, check_noise
from ...solvers import Model, Noise, Plan
from ...solvers.kinds import check_kind
from ...solvers.notebook import form, mean_and_range, one_line, table
from ..grad_mode import check_grad_mode
from ..latents.found import Stop
from ..recognition.recogniser import Recogniser
from .blends import loss_at
from .encoders import Encoder, FlowEncoder
from .end_to_end import EndToEnd
from .latent import Latents
from .pair import Pair
from .pair_loss import MorphLoss, distances
from .scene import Scene
from .strategy import MorphStrategy


@dataclass(frozen=True, eq=False)
class Morph:
    """Morphs of B pairs and how they came about. Every tensor is detached.

    Attributes:
        images: (B, ...).
        latents: what a plain run gives them from; None where no run does (pixel blends, guided runs).
        loss: (B,) at the images.
        distances: (R, 2, B) to the first and the second subject: of the recognisers in the loss, then of the judges.
        nfe, vjps: network evaluations and VJPs of a pair, encoding included; what stops when the whole batch has
            converged (`FixedPointEncoder`) counts as for the slowest of it.
        looks: images of a pair that each recogniser in the loss was shown.
        stop: why a search ended; None where nothing was searched.
    """

    images: Tensor
    latents: Latents | None
    loss: Tensor
    distances: Tensor
    nfe: int
    vjps: int
    looks: int
    stop: Stop | None

    def __repr__(self) -> str:
        return one_line(
            f"<Morph: {len(self.images)} pairs, loss {mean_and_range(self.loss)}; {self.nfe} calls, {self.vjps} VJPs>"
        )

    def _repr_html_(self) -> str:
        rows = [("images", form(self.images)), ("loss", mean_and_range(self.loss))]
        rows += [
            (f"distance to the farther face, recogniser {k}", mean_and_range(row))
            for k, row in enumerate(self.worse)
        ]
        rows += [("cost of a pair", f"{self.nfe} network calls, {self.vjps} VJPs, {self.looks} looks")]
        rows += [] if self.stop is None else [("ended", self.stop.value)]
        return table(("Morph", ""), rows)

    @property
    def worse(self) -> Tensor:
        """(R, B) the distance to the farther subject: a recogniser takes the morph for both below its threshold."""
        return self.distances.amax(1)


def morph(
    model: Model,
    plan: Plan,
    pair: Pair,
    recognisers: Sequence[Recogniser],
    strategy: MorphStrategy = EndToEnd(),
    *,
    loss: MorphLoss = MorphLoss(),
    judges: Sequence[Recogniser] = (),
    encoder: Encoder = FlowEncoder(),
    noise: Noise | None = None,
    progress: bool = True,
) -> Morph:
    """One image a pair that recognisers take for both of its subjects.

    For measuring how far a recogniser can be deceived, and for what detects it: see docs/morphs.md.

    Args:
        model, plan: decode latents; `plan` falls from noise to data.
        pair: the subjects, (B, ...) each.
        recognisers: those in the loss.  judges: those that only measure, which the loss never sees.
        strategy: how the morph is looked for.  loss: what is made small.  encoder: how the subjects are encoded.
        noise: of a stochastic plan whose noise the encoder does not recover. Samples are told apart by their number in
            the batch, or by `Addressed(seed, samples=...)`.

    Returns:
        A Morph. No pair's result depends on its batch mates.

    Raises:
        ValueError: before any network call, for what does not fit: recognisers without a gradient under a strategy
            that takes one or that cannot read a subject, weights, shapes.
    """
    check_model_and_plan(model, plan)
    plan.check_falls("morph")
    check_kind("pair", pair, Pair, "a Pair; pass Pair(first, second)")
    check_kind("strategy", strategy, MorphStrategy, "a strategy such as EndToEnd() or LatentBlend()")
    check_kind("loss", loss, MorphLoss, "a MorphLoss; put recognisers beside it: morph(..., recognisers)")
    check_kind("encoder", encoder, Encoder, "an encoder such as FlowEncoder()")
    check_noise(noise)
    for name, given in (("recognisers", recognisers), ("judges", judges)):
        check_kind(name, given, (list, tuple), "a list of recognisers; pass [recogniser]")
        for each in given:
            check_kind(
                name,
                each,
                Recogniser,
                "recognisers; wrap a network: Embedding(network), or BlackBoxRecogniser(...)",
            )
    _check_usable(recognisers, strategy)
    scene = Scene(model, plan, pair, encoder, noise, progress)
    bound = loss.of(scene, tuple(recognisers))
    found = strategy.run(scene, bound)
    final = loss_at(bound, found.images)
    everyone = [distances(each, found.images, pair.first, pair.second) for each in (*recognisers, *judges)]
    spent = scene.spent
    return Morph(
        found.images,
        found.latents,
        final,
        torch.stack(everyone),
        spent.nfe,
        spent.vjps,
        spent.looks,
        found.stop,
    )


def _check_usable(recognisers: Sequence[Recogniser], strategy: MorphStrategy) -> None:
    """Raise ValueError where the loss has nobody to ask, or no gradient that the strategy takes."""
    if not recognisers:
        raise ValueError(
            "recognisers: got none, expected at least one for the loss to ask; pass [dlib_face()] or a recogniser of "
            "your own, and under judges= those that only measure"
        )
    if not strategy.needs_gradient:
        return
    check_grad_mode("morph")
    blind = [each for each in recognisers if not each.differentiable]
    if blind:
        raise ValueError(
            f"recognisers: got {blind[0]}, which has no gradient, expected differentiable ones for {strategy}; take "
            "Evolution(), ParticleSearch(), GreedySearch(), EndToEnd(differences=Addressed(0)), or a differentiable "
            "stand-in"
        )
