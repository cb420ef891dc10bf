"""Good uses of what makes morphs."""

from collections.abc import Iterator
from typing import Any

import torch

from pullback import guidance
from pullback.solvers import DDIM, VP, Model, UniformLambda

from .use import Make, Use, called

PLAN = DDIM().plan(VP(), UniformLambda(3, start=0.9, end=0.1))


def eye() -> guidance.Embedding:
    return guidance.Embedding(torch.nn.Identity())


def pair() -> guidance.Pair:
    return guidance.Pair(torch.zeros(2, 4), torch.ones(2, 4))


def morphs(model: Model) -> Iterator[Use]:
    """All of them; `model` watches its calls."""

    def found(strategy: Any = guidance.LatentBlend(), **given: Any) -> guidance.Morph:
        return guidance.morph(model, PLAN, pair(), [eye()], strategy, progress=False, **given)

    yield called(
        guidance.morph, model=lambda: model, plan=lambda: PLAN, pair=pair, recognisers=lambda: [eye()],
        strategy=guidance.LatentBlend, progress=lambda: False,
    )  # fmt: skip
    yield called(
        guidance.distances, recogniser=eye, images=lambda: torch.rand(2, 4), first=lambda: torch.zeros(2, 4),
        second=lambda: torch.ones(2, 4),
    )  # fmt: skip
    yield Use("Pair", guidance.Pair, {"first": lambda: torch.zeros(2, 4), "second": lambda: torch.ones(2, 4)})
    few: dict[str, dict[str, Make]] = {
        "EndToEnd": {"steps": lambda: 1}, "Evolution": {"generations": lambda: 1}, "GreedyMorph": {"rounds": lambda: 1},
        "GreedySearch": {"weights": lambda: 2}, "LookaheadMorph": {}, "LatentBlend": {}, "PixelBlend": {},
        "InvertedBlend": {}, "FlowEncoder": {}, "FixedPointEncoder": {}, "DenoiserError": {}, "Anchor": {},
        "SumAndDifference": {},
    }  # fmt: skip
    for name, good in few.items():
        cls = getattr(guidance, name)

        def act(cls: Any = cls, **given: Any) -> guidance.Morph:
            made = cls(**given)
            if isinstance(made, guidance.MorphStrategy):
                return found(made)
            if isinstance(made, guidance.Encoder):
                return found(encoder=made)
            terms = {"realism": (made,)} if isinstance(made, guidance.Realism) else {"identity": made}
            return found(loss=guidance.MorphLoss(**terms))

        yield Use(name, act, good, cls)
    yield Use("Views", lambda **given: guidance.Views(**given)(torch.zeros(2, 1, 4, 4)), {}, guidance.Views)
