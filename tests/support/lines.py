"""A mixture on the line as a network to train, and what its samples are worth in closed form."""

import torch
from torch import Tensor, nn

from pullback.solvers import DATA, VP, Denoiser

PROCESS = VP()
START, END = 1.0, 0.03
WEIGHTS = torch.tensor([0.3, 0.45, 0.25], dtype=torch.float64)
THETA = torch.tensor([1.0, -0.8, 0.2, 0.35, 0.45, 0.3], dtype=torch.float64)  # means, deviations


class Line(nn.Module):
    """The exact DATA network of sum_k w_k N(m_k, s_k^2); theta = (m, s) is its parameter, or cond (B, 6) of each
    sample: a gradient there is one for each sample.
    """

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(THETA.clone())

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        m, s = (self.theta[None] if cond is None else cond).chunk(2, 1)
        a, sigma = PROCESS.alpha(t)[:, None], PROCESS.sigma(t)[:, None]
        spread = a**2 * s**2 + sigma**2
        off = x - a * m
        w = (WEIGHTS.log() - 0.5 * spread.log() - 0.5 * off**2 / spread).softmax(1)
        return (w * (m + a * s**2 / spread * off)).sum(1, keepdim=True)


def line() -> Denoiser:
    return Denoiser(Line(), PROCESS, DATA)


def thetas(count: int) -> Tensor:
    """One theta for each sample, (count, 6)."""
    return THETA.repeat(count, 1).requires_grad_()


def starts(theta: Tensor, z: Tensor) -> Tensor:
    """Draws (B, 1) of the law at START by normal z (B, 2), with gradients: flow and reverse SDE from there end in the
    law at END, whatever theta is.
    """
    a, sigma = PROCESS.alpha(START), PROCESS.sigma(START)
    k = torch.bucketize(0.5 * torch.erfc(-z[:, :1] / 2**0.5), WEIGHTS.cumsum(0)[:-1])
    m, s = (part.gather(1, k) for part in theta.chunk(2, 1))
    return a * m + (a**2 * s**2 + sigma**2).sqrt() * z[:, 1:]


def worth(x: Tensor) -> Tensor:
    """cos 2x + x^2/2, (B,)."""
    return torch.cos(2 * x[:, 0]) + 0.5 * x[:, 0] ** 2


def worth_of_the_law(theta: Tensor) -> Tensor:
    """E worth(x) over the law at END, in closed form."""
    a, sigma = PROCESS.alpha(END), PROCESS.sigma(END)
    m, s = theta.chunk(2)
    mean, variance = a * m, a**2 * s**2 + sigma**2
    return (WEIGHTS * (torch.exp(-2 * variance) * torch.cos(2 * mean) + 0.5 * (mean**2 + variance))).sum()
