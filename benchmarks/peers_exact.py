"""A flow whose gradient is known: p(x) = sum_k w_k N(m_k, s_k^2) on the line, VP, and what is solved for it.

In one dimension the probability flow moves quantiles: F_end(x_end) = F_start(x_start), F_t the distribution function of
alpha x_0 + sigma eps. So x_end follows by bisection to round-off, and its derivatives in x_start and in all parameters
from the implicit function: one Newton step with a graph.
"""

import torch
from torch import Tensor, nn

from pullback.solvers import DATA, VP, Denoiser

START, END, DRAWS = 1.0, 1e-3, 64
PROCESS = VP()
LAMBDAS = tuple(float(PROCESS.lam(t)) for t in (START, END))
WEIGHTS = {
    "logits": [0.0, 0.5, -0.3, 0.2],
    "means": [-2.0, -0.4, 0.9, 2.2],
    "log_stds": [-1.2, -0.7, -1.0, -0.5],
}


class Law(nn.Module):
    """Its posterior mean as a network whose weights are the logits, means and log deviations."""

    def __init__(self) -> None:
        super().__init__()
        self.logits, self.means, self.log_stds = (
            nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in WEIGHTS.values()
        )
        self.calls = self.vjps = 0

    def levels(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Centres and variances of the components at a noise level."""
        return alpha * self.means, (alpha * self.log_stds.exp()) ** 2 + sigma**2

    def data(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[x_0 | x], x (B, 1)."""
        self.calls += 1
        centres, variances = self.levels(alpha, sigma)
        share = torch.softmax(self.logits - (x - centres) ** 2 / (2 * variances) - variances.log() / 2, 1)
        gains = alpha * (2 * self.log_stds).exp() / variances
        out = (share * (self.means + gains * (x - centres))).sum(1, keepdim=True)
        if out.requires_grad:
            out.register_hook(self._count)
        return out

    def _count(self, _: Tensor) -> None:
        self.vjps += 1

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.data(x, PROCESS.alpha(t[0]), PROCESS.sigma(t[0]))

    def below(self, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """Distribution function and density at t."""
        centres, variances = self.levels(PROCESS.alpha(t), PROCESS.sigma(t))
        scores, weights = (x - centres) / variances.sqrt(), torch.softmax(self.logits, 0)
        density = (weights * torch.exp(-(scores**2) / 2) / (2 * torch.pi * variances).sqrt()).sum(
            1, keepdim=True
        )
        return (weights * torch.special.ndtr(scores)).sum(1, keepdim=True), density

    def flow(self, x: Tensor) -> Tensor:
        """x_end of x_start, differentiable in x and in the weights: exact to round-off."""
        level, _ = self.below(x, START)
        low, high = torch.full_like(x, -8.0), torch.full_like(x, 8.0)
        with torch.no_grad():
            for _ in range(80):
                middle = (low + high) / 2
                under = self.below(middle, END)[0] < level
                low, high = torch.where(under, middle, low), torch.where(under, high, middle)
        end = ((low + high) / 2).detach()
        reached, density = self.below(end, END)
        return end + (level - reached) / density.detach()


def draws() -> Tensor:
    """Quantiles of the standard normal law, (DRAWS, 1), from 2 % to 98 %."""
    return torch.special.ndtri(torch.linspace(0.02, 0.98, DRAWS, dtype=torch.float64))[:, None]


def loss(x: Tensor) -> Tensor:
    return ((x - 1) ** 2).sum() / 2


def gradients(law: Law, x: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """At the noise and at all weights."""
    at_x, *at_weights = torch.autograd.grad(loss(out), [x, *law.parameters()])
    return at_x.flatten(), torch.cat([g.flatten() for g in at_weights])


def truth() -> tuple[Tensor, Tensor]:
    law, x = Law(), draws().requires_grad_()
    return gradients(law, x, law.flow(x))


def model(law: Law) -> Denoiser:
    return Denoiser(law, PROCESS, DATA)


def slope(law: Law, u: Tensor, x: Tensor, in_t: bool) -> Tensor:
    """dx/dlambda = alpha D - alpha^2 x, or dx/dt = that times dlambda/dt = -beta(t) / (2 sigma^2)."""
    t = u if in_t else PROCESS.time(u)
    alpha, sigma = PROCESS.alpha(t), PROCESS.sigma(t)
    rate = alpha * law.data(x, alpha, sigma) - alpha**2 * x
    beta = PROCESS.beta_min + (PROCESS.beta_max - PROCESS.beta_min) * t
    return rate * -beta / (2 * sigma**2) if in_t else rate


def errors(found: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Relative, in norm, of the gradient at the noise and at the weights."""
    x, weights = (float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True))
    return {"x_error": x, "weights_error": weights}
