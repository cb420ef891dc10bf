"""Who judges a face morph: dlib's recogniser and the three bundled ones, with thresholds from the 100 bundled faces."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pullback.guidance import (
    COSINE,
    Comparisons,
    DenoiserError,
    Embedding,
    MorphScores,
    Recogniser,
    bootstrap_rate,
    dlib_face,
    mmpmr_min_max,
    threshold_at,
)
from pullback.solvers import Denoiser
from pullback.zoo import load

RATES = (0.01, 0.001)  # false match rates that thresholds are calibrated for


@dataclass(frozen=True, eq=False)
class Judge:
    """A recogniser and its thresholds at `RATES`."""

    name: str
    recogniser: Recogniser
    thresholds: tuple[float, ...]

    def strict(self, rate: float) -> Recogniser:
        """The recogniser with its threshold at one of `RATES`."""
        return self.recogniser.with_threshold(self.thresholds[RATES.index(rate)])


def judges(faces: Tensor) -> dict[str, Judge]:
    """dlib and the bundled embedders, calibrated on all pairs of `faces`, each another person."""
    found: dict[str, Recogniser] = {"dlib": dlib_face()}
    for k in range(3):
        network = load(f"embedder{k}").to(faces.device)
        found[f"embedder {k}"] = Embedding(network, distance=COSINE)
    calibrated = {}
    for name, recogniser in found.items():
        impostors = Comparisons.among(recogniser, faces).distances
        calibrated[name] = Judge(name, recogniser, tuple(threshold_at(rate, impostors) for rate in RATES))
    return calibrated


def match_rate(judge: Judge, rate: float, morphs: Tensor, pairs: Tensor) -> tuple[float, float, float]:
    """MMPMR at a false match rate with its 95 % interval over the morphs: (rate, low, high). pairs: (2, B, ...)."""
    scores = MorphScores.compare([judge.strict(rate)], morphs, pairs.transpose(0, 1)[:, :, None])
    value = float(mmpmr_min_max(scores)[0])
    if len(morphs) < 2:
        return value, 0.0, 1.0
    found = bootstrap_rate(lambda drawn: mmpmr_min_max(scores.take(drawn))[0], len(morphs))
    return value, float(found.low), float(found.high)


def sharpness(images: Tensor) -> Tensor:
    """Mean length of the grey levels' slope, (B,): blur lowers it."""
    down = images[..., 1:, :-1] - images[..., :-1, :-1]
    across = images[..., :-1, 1:] - images[..., :-1, :-1]
    return (down.square() + across.square()).sqrt().flatten(1).mean(1)


def unreality(model: Denoiser, images: Tensor) -> Tensor:
    """(B,) how badly the diffusion model undoes noise put on an image: larger is farther from the faces it knows."""
    with torch.no_grad():
        return DenoiserError(seed=7)(model, images, None)
