"""Exact rectified flows for the tests of editing."""

import torch
from torch import Tensor

from pullback.solvers import FLOW, Denoiser, Gaussian, Mixture, RectifiedFlow


def exact_flow(law: Mixture) -> Denoiser:
    """E[eps - x_0 | x_t], finite at both ends; cond (d,) or (B, d) shifts the data."""

    def network(x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        shift = torch.zeros_like(x) if cond is None else cond.to(x).expand_as(x)
        data, noise = law.data_and_noise(x - (1 - t)[:, None] * shift, 1 - t, t)
        return noise - data - shift

    return Denoiser(network, RectifiedFlow(), FLOW)


def plane(n: int, seed: int = 3) -> tuple[Denoiser, Tensor]:
    """A flow on three Gaussians in the plane, and n of its data."""
    from problems import MIXTURE

    return exact_flow(MIXTURE), MIXTURE.sample(n, torch.Generator().manual_seed(seed))


def ball(variance: float = 0.25, d: int = 2) -> Denoiser:
    """The flow on N(0, variance I)."""
    return exact_flow(Gaussian(torch.zeros(d, dtype=torch.float64), variance))
