"""Good uses of what judges images: recognisers, rates, tables of distances."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pullback import guidance

from .use import Make, Use, called


def distances() -> Tensor:
    return torch.linspace(0.1, 1.0, 6)


def people() -> Tensor:
    return torch.arange(6)


def scores() -> guidance.MorphScores:
    return guidance.MorphScores(torch.linspace(0, 1, 24).reshape(3, 2, 2, 2), torch.tensor([0.4, 0.6]))


def chip() -> guidance.Chip:
    return guidance.Chip(size=7)


def described(**arguments: Any) -> Tensor:
    return guidance.Embedding(**arguments).describe(torch.rand(3, 4))


def described_unseen(**arguments: Any) -> Tensor:
    return guidance.BlackBoxRecogniser(**arguments).describe(torch.rand(3, 4))


def calibrated(**arguments: Any) -> guidance.Calibration:
    return guidance.Calibration.of(**arguments, replicates=5)


def recognition() -> Iterator[Use]:
    """All of them."""
    impostors = lambda: guidance.Comparisons(distances(), people(), people().roll(1))  # noqa: E731
    own: dict[str, Make] = {"threshold": lambda: 0.5, "distance": lambda: guidance.COSINE}
    yield Use("Embedding", described, {"network": lambda: torch.nn.Identity(), **own}, guidance.Embedding)
    yield Use(
        "BlackBoxRecogniser", described_unseen, {"function": lambda: lambda x: x, **own}, guidance.BlackBoxRecogniser
    )  # fmt: skip
    yield Use("Chip", lambda **given: guidance.Chip(**given)(torch.zeros(1, 1, 4, 4)), {}, guidance.Chip)
    yield Use("MorphScores", guidance.MorphScores, {
        "distances": lambda: scores().distances, "thresholds": lambda: scores().thresholds
    })  # fmt: skip
    compared = lambda distances: guidance.Comparisons(distances, people(), people().roll(1))  # noqa: E731
    yield Use("Comparisons", compared, {"distances": distances})
    yield Use("Calibration.of", calibrated, {
        "fmr": lambda: 0.1, "impostors": impostors, "level": lambda: 0.9, "seed": lambda: 0
    }, lambda fmr, impostors, level, seed: None)  # fmt: skip
    yield called(guidance.threshold_at, fmr=lambda: 0.1, impostors=distances)
    yield called(guidance.false_match_rate, impostors=distances, threshold=lambda: 0.5)
    yield called(guidance.false_non_match_rate, genuine=distances, threshold=lambda: 0.5)
    for interval in (guidance.bootstrap, guidance.bootstrap_rate):
        yield called(
            interval, statistic=lambda: lambda drawn: (drawn / 4).double().mean(), units=lambda: 4,
            replicates=lambda: 5, level=lambda: 0.9, seed=lambda: 0,
        )  # fmt: skip
    for metric in (guidance.mmpmr_min_max, guidance.mmpmr_prod_avg, guidance.morphing_attack_potential):
        yield called(metric, scores=scores)
    yield called(guidance.rmmr, mmpmr=lambda: torch.tensor([0.4, 0.6]), fnmr=lambda: torch.tensor([0.1, 0.2]))
    yield called(guidance.dlib_face, threshold=lambda: 0.6, chip=chip)
