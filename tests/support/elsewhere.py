"""What stands for a trained network of another library: the exact answers for Gaussian data, in its words."""

import torch
from torch import Tensor, nn

from pullback.adjoint import sample
from pullback.solvers.model import Model, data_prediction

CHANNELS = 4
SIGMA_MAX = 14.6
T = 20
ACP = torch.cumprod(1 - torch.linspace(0.005, 0.3, T, dtype=torch.float64), 0)  # alphas_cumprod


class Law(nn.Module):
    """Data N(mean + shift, deviation^2) of 4 channels, `shift` the conditioning; mean and deviation are weights."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor([0.4, -0.7, 0.2, 0.1], dtype=torch.float64))
        self.deviation = nn.Parameter(torch.tensor([0.3, 0.5, 0.8, 0.6], dtype=torch.float64))
        self.classes = nn.Embedding(4, CHANNELS, dtype=torch.float64)  # 3 stands for no class

    def data(self, x: Tensor, alpha: Tensor, sigma: Tensor, shift: Tensor | float = 0.0) -> Tensor:
        """E[x_0 | x] at x = alpha x_0 + sigma eps, alpha and sigma (B, 1)."""
        mean, variance = self.mean + shift, self.deviation**2
        return mean + alpha * variance / (alpha**2 * variance + sigma**2) * (x - alpha * mean)

    def noise(self, x: Tensor, alpha: Tensor, sigma: Tensor, shift: Tensor | float = 0.0) -> Tensor:
        """E[eps | x]."""
        return (x - alpha * self.data(x, alpha, sigma, shift)) / sigma


def start(scale: float = 1.0) -> Tensor:
    """(3, 4), the same each time."""
    x = scale * torch.randn(3, CHANNELS, generator=torch.Generator().manual_seed(1))
    return x.requires_grad_()


def assert_equal(got: Tensor, want: Tensor, inputs: list[Tensor], tolerance: float = 1e-11) -> None:
    """Value and gradient of two runs."""
    inputs = [v for v in inputs if v.requires_grad]
    pairs = [(got, want)]
    grads = [
        torch.autograd.grad(out.square().sum(), inputs, allow_unused=True, retain_graph=True)
        for out in (got, want)
    ]
    for a, b in (*pairs, *zip(*grads, strict=True)):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert (a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1e-3)


def check_line(model, plan, want, x, inputs=(), cond=None, noise=None, tolerance=1e-11):
    """`sample` of a user's line is the loop's `want`, with its gradient at x, weights and `inputs`."""
    got = sample(model, plan, x, cond=cond, noise=noise)
    weights = [w for w in model.parameters() if w.requires_grad and w.is_leaf]
    assert len(weights) >= 2, "the weights behind the line are not found"
    assert_equal(got, want, [x, *weights, *inputs], tolerance)


def assert_denoises(model: Model, law: Law, times, cond=None, shift: Tensor | float = 0.0) -> None:
    """The data prediction of a user's line is E[x_0 | x] in closed form."""
    process, x = model.process, start().detach()
    for t in times:
        alpha, sigma = (f(t).reshape(1, 1) for f in (process.alpha, process.sigma))
        state = alpha * x + sigma * x.flip(0)
        found = data_prediction(model, state, t, cond)
        assert (found - law.data(state, alpha, sigma, shift)).abs().max() < 1e-10
