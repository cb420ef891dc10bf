"""Randomised smoothing: a radius in which no change of the image can change the answer, certified by sampling."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...solvers import Addressed, Model
from ...solvers.checked import checked
from ...solvers.kinds import described
from ...solvers.model import data_prediction
from ...solvers.notebook import Shown
from ...solvers.process import as_time
from ...solvers.progress import progress_bar
from ...solvers.wanted import Samples
from .intervals import Proportion, binomial_lower

ABSTAINED = -1


@checked
def one_step_denoise(denoiser: Model, noisy: Samples, sigma: float, *, cond: Any = None) -> Tensor:
    """E[image | noisy] for noisy = image + sigma eps: D(alpha(t) noisy, t) at the t with sigma(t)/alpha(t) = sigma.

    Args:
        noisy: (B, ...) in the range that the denoiser was trained on; sigma is in its units (twice as large for
            images in [-1, 1] as for the same in [0, 1]).

    Raises:
        ValueError: a sigma that the process does not reach.

    Source: Carlini et al. 2022, arXiv 2206.10550, algorithm 1. Cost: one network call.
    """
    process = denoiser.process
    low, high = (float((-process.lam(as_time(t))).exp()) for t in (process.t_min, process.t_max))
    if not low <= sigma <= high or sigma == 0:
        least = f"{low:.3g}" if low else "above 0"
        raise ValueError(
            f"sigma: got {sigma}, expected {least} and at most {high:.3g}, the noise levels sigma/alpha of {process}"
        )
    t = process.time(-as_time(sigma).log())
    # a state is carried in float32 at least, as in `sample`
    state = process.alpha(t).item() * noisy.to(torch.promote_types(noisy.dtype, torch.float32))
    return data_prediction(denoiser, state, t, cond).to(noisy)


@dataclass(frozen=True, eq=False, repr=False)
class Certificate(Shown):
    """What `certify` found.

    Attributes:
        labels: (B,) the smoothed classifier's answer, -1 where it abstains.
        radius: (B,) in which no L2 change alters it, 0 where it abstains.
        p_lower: (B,) lower bound on the probability of the answer under noise.
        alpha: the probability, image by image, with which labels and radius may be wrong.
        calls: of the classifier, over all images.
    """

    labels: Tensor
    radius: Tensor
    p_lower: Tensor
    alpha: float
    calls: int

    def accuracy(self, labels: Tensor, radius: float = 0.0) -> Proportion:
        """Certified accuracy: read right, with a certified radius above `radius`. labels: (B,)."""
        if labels.shape != self.labels.shape:
            raise ValueError(
                f"labels: got {tuple(labels.shape)}, expected {tuple(self.labels.shape)}, one for each image certified"
            )
        return Proportion(int(((self.labels == labels) & (self.radius > radius)).sum()), len(labels))


@checked
def certify(
    classifier: Callable[[Tensor], Tensor],
    images: Samples,
    sigma: float,
    *,
    draws: int = 10_000,
    selection: int = 100,
    alpha: float = 0.001,
    noise: Addressed = Addressed(0),
    at_once: int = 200,
    progress: bool = False,
) -> Certificate:
    """Certify g(x) = the class that classifier(x + sigma eps) answers most often:

        c        the commonest answer among `selection` draws
        p        Clopper-Pearson lower bound, at confidence 1 - alpha, on P(answer = c), from `draws` others
        radius   sigma Phi^-1(p) where p > 1/2; else g abstains

    Within the radius g answers c, whatever the attack (with probability 1 - alpha over the draws). Denoised smoothing:

        certify(lambda noisy: classifier(one_step_denoise(denoiser, noisy, 0.25)), images, 0.25)

    Args:
        classifier: noisy images (n, ...) to logits (n, classes).  images: (B, ...).
        draws: bound the radius by sigma Phi^-1(alpha^(1/draws)): 3.2 sigma for 10,000 and alpha = 0.001.
        noise: slots 0 .. selection + draws - 1 of each image.  at_once: draws in one call; changes nothing else.

    Raises:
        ValueError: what the arguments say, draws too few for any answer, or a result that is not (n, classes).
        FloatingPointError: logits that are not finite.

    Source: Cohen et al. 2019, arXiv 1902.02918, section 3.2; Carlini et al. 2022, 2206.10550. Cost: selection + draws
    calls of the classifier an image.
    """
    if not callable(classifier):
        raise TypeError(
            f"classifier: got {described(classifier)}, expected a function of noisy images (n, ...); pass lambda x: ..."
        )
    if not sigma > 0 or min(draws, selection, at_once) < 1 or not 0 < alpha < 1:
        raise ValueError(
            f"certify: got sigma={sigma}, draws={draws}, selection={selection}, alpha={alpha}, at_once={at_once}, "
            "expected sigma > 0, whole numbers >= 1, 0 < alpha < 1"
        )
    if not alpha ** (1 / draws) > 0.5:
        least = math.floor(math.log2(1 / alpha)) + 1
        raise ValueError(
            f"draws: got {draws}, expected {least} or more at alpha={alpha}: with fewer the "
            "bound on p never exceeds 1/2, and every image is abstained from"
        )
    noise.check(selection + draws, images)
    ids = noise.samples or range(len(images))
    found = []
    with progress_bar(total=len(images), disable=not progress) as bar:
        for image, sample in zip(images, ids, strict=True):
            count = _Count(classifier, image, sigma, noise, sample, at_once)
            first = count(0, selection)
            answer = int(first.argmax())
            found.append((answer, int(count(selection, selection + draws)[answer])))
            bar.update()
    lower = [binomial_lower(hits, draws, alpha) for _, hits in found]
    p = torch.tensor(lower, dtype=torch.float64, device=images.device)
    sure = p > 0.5
    answers = torch.tensor([answer for answer, _ in found], dtype=torch.long, device=images.device)
    radius = torch.where(sure, sigma * torch.special.ndtri(p), 0.0)
    labels = torch.where(sure, answers, ABSTAINED)
    return Certificate(labels, radius, p, alpha, len(images) * (selection + draws))


@dataclass(frozen=True, eq=False)
class _Count:
    """How often each class is answered for one image, slot by slot of its noise."""

    classifier: Callable[[Tensor], Tensor]
    image: Tensor
    sigma: float
    noise: Addressed
    sample: int
    at_once: int

    def __call__(self, low: int, high: int) -> Tensor:
        total = torch.zeros(0)
        for begin in range(low, high, self.at_once):
            slots = range(begin, min(begin + self.at_once, high))
            draws = [self.noise.at(self.sample, slot, self.image.shape) for slot in slots]
            with torch.no_grad():
                logits = self.classifier(self.image + self.sigma * torch.stack(draws).to(self.image))
            _check_logits(logits, len(slots))
            counts = torch.bincount(logits.argmax(1).cpu(), minlength=logits.shape[1])
            total = counts if not len(total) else total + counts
        return total


def _check_logits(logits: object, count: int) -> None:
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != count:
        raise ValueError(
            f"classifier: got {described(logits)} for {count} images, expected logits ({count}, classes)"
        )
    if not bool(logits.isfinite().all()):
        raise FloatingPointError("classifier: got logits that are not finite, expected finite ones; mend it")
