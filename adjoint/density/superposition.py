"""Superposition: samples of several models at once, weighted by their densities along the way (SuperDiff)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers import Model, Noise
from ...solvers.broadcast import per_sample
from ...solvers.checked import CheckedFields, checked
from ...solvers.full_precision import full_precision
from ...solvers.grid import Times, checked_times
from ...solvers.model import data_prediction
from ...solvers.opening import carried
from ...solvers.wanted import Finite, Limit, Samples
from .ito import kernel_ratio, levels_at


class Superposition(CheckedFields, ABC):
    """Weights kappa (M, B), summing to 1 over M models, of the score sum_j kappa_j s_j that the sampler follows."""

    @abstractmethod
    def __call__(self, log_q: Tensor, scores: Tensor, width: Tensor, drawn: Tensor) -> Tensor:
        """kappa (M, B) of log_q (M, B), the scores (M, B, d) in y = x/alpha, the fall of v (B,), the noise (B, d)."""


@dataclass(frozen=True)
class Or(Superposition):
    """kappa = softmax(temperature log q): samples of the mixture of all, where temperature = 1."""

    temperature: Finite = 1.0

    def __call__(self, log_q: Tensor, scores: Tensor, width: Tensor, drawn: Tensor) -> Tensor:
        return (self.temperature * log_q).softmax(0)


@dataclass(frozen=True)
class And(Superposition):
    """The kappa for which log q of all models gains the same in this step, its draw included, so that samples are
    equally likely under all: M - 1 linear equations and the sum, solved by least squares. Proposition 6.
    """

    def __call__(self, log_q: Tensor, scores: Tensor, width: Tensor, drawn: Tensor) -> Tensor:
        # (s_i - s_0) . (width sum_j kappa_j s_j + drawn) = width (|s_i|^2 - |s_0|^2)/2
        apart = scores[1:] - scores[:1]
        level = scores.square().sum(-1)
        right = (level[1:] - level[:1]) / 2 - (apart * drawn).sum(-1) / width
        right = torch.cat([right, torch.ones_like(right[:1])], 0)
        with full_precision(scores):
            rows = torch.einsum("ibd,jbd->bij", apart, scores)
            rows = torch.cat([rows, torch.ones_like(rows[:, :1])], 1)
            return torch.einsum("bij,jb->ib", torch.linalg.pinv(rows), right)


@checked
def superpose(
    models: Sequence[Model],
    grid: Times,
    x: Samples,
    start: Tensor,
    noise: Noise,
    kappa: Superposition = Or(),
    *,
    variance: Limit = 1.0,
) -> tuple[Tensor, Tensor]:
    """(sample (B, ...), log q of it under each model (M, B)) along DDPM's steps with the score of `kappa`.

    Args:
        models: of one process.
        grid: from noise to data, 0 < sigma/alpha < inf.
        start: (M, B) nats, log q of x under each at the first time; a model's logarithmic weight is added here.
        noise: a slot a step.
        variance: as of `ito_log_prob`.

    Raises:
        ValueError: models of several processes, a rising grid, levels without a score, another shape of `start`.

    Cost: M network calls a step. Source: Skreta et al. 2024, arXiv 2412.17762, algorithm 1.
    """
    if not models:
        raise ValueError("models: got none, expected at least one; pass [model, other]")
    process, count = models[0].process, len(models)
    times = checked_times(grid, process)
    lam = process.lam(times)
    if any(model.process != process for model in models):
        raise ValueError(
            f"models: got processes {[model.process for model in models]}, expected one; convert them to one first"
        )
    if not bool(lam.isfinite().all()) or bool((lam.diff(dim=0) < 0).any()):
        raise ValueError(
            "grid: got a rising one, or alpha or sigma = 0, expected one from noise to data with both positive; pass "
            "UniformLambda(n, start=..., end=...)"
        )
    if start.shape != (count, len(x)):
        raise ValueError(f"start: got shape {tuple(start.shape)}, expected {(count, len(x))}, (models, B)")
    for model in models:
        model.check_times(times[:-1])
    noise.check(len(times) - 1, x)
    x, log_q = carried(x), start
    for k, (t, t_next) in enumerate(zip(times[:-1], times[1:], strict=True)):
        (alpha, v), (alpha_next, v_next) = levels_at(process, t, x), levels_at(process, t_next, x)
        y, width = x / alpha, v - v_next
        scores = torch.stack([(data_prediction(model, x, t) - y) / v for model in models])
        drawn = (v_next * width / v).sqrt() * noise(k, x)
        weights = kappa(log_q, scores.flatten(2), width.flatten().expand(len(x)), drawn.flatten(1))
        moved = drawn + width * sum(
            per_sample(w.to(x), x) * score for w, score in zip(weights, scores, strict=True)
        )
        x = alpha_next * (y + moved)
        change = x.shape[1:].numel() * (alpha / alpha_next).log().flatten()
        log_q = (
            log_q + torch.stack([kernel_ratio(s, moved, width, variance + v_next) for s in scores]) + change
        )
    return x, log_q
