"""JointFlow: a model whose state has the log density beside x, as quantities that the same plan carries."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...solvers.broadcast import per_sample
from ...solvers.model import Model
from ...solvers.process import as_time
from .divergence import FlowDivergence


class JointFlow(Model):
    """`model` over z = (x, w), flat (B, d + R): w = (alpha + sigma) l, one l for each lane of `divergence`,

        l = log p_t(x_t) + (1/2) sum_i log s_i^2,   s_i^2 = alpha^2 v_i + sigma^2

    along the flow, up to a constant. From d log p/dt = -tr du/dx, u = alpha' D + sigma' E (D, E the predictions of
    data and noise),

        dl/dt = -alpha' tr(dD/dx - alpha v/s^2) - sigma' tr(dE/dx - sigma/s^2)      v/s^2, 1/s^2 diagonal matrices

    and so w is moved as x is, dw/dt = alpha' D_w + sigma' E_w and w = alpha D_w + sigma E_w, by the predictions

        D_w = l - (alpha + sigma) tr(dD/dx - alpha v/s^2),   E_w = l - (alpha + sigma) tr(dE/dx - sigma/s^2)

    Every plan is then a plan for z, and what it does to D it does to the traces: l has the order that x has. For data
    N(., diag v) both traces vanish and l is exact; they are finite at alpha = 0 and at sigma = 0, where tr dE/dx or
    tr dD/dx alone grow like d/sigma and d/alpha. A network of another prediction P = a D + b E is linear in the two:

        P_w = (a + b) l - (alpha + sigma) tr M,   M = dP/dx - (a alpha v + b sigma)/s^2

    Args:
        shape: of one sample as `model` takes it.
        probes: of the run, from `divergence`.
        variance: v, (1,) or (d,), positive.

    Derived here; the flow's log density is eq. 39 of Song et al. 2021, arXiv 2011.13456.
    """

    def __init__(
        self, model: Model, shape: torch.Size, divergence: FlowDivergence, probes: Tensor, variance: Tensor
    ) -> None:
        self.model, self.process, self.prediction = model, model.process, model.prediction
        self.shape, self.divergence, self.held, self.variance = shape, divergence, probes, variance

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        size = self.shape.numel()
        flat, w = x[:, :size], x[:, size:]
        time = as_time(t)
        alpha, sigma = self.process.alpha(time), self.process.sigma(time)
        a, b = self.prediction.row(self.process, time)
        alpha, sigma, a, b = (per_sample(level.to(x), x) for level in (alpha, sigma, a, b))
        diagonal = (a * alpha * self.variance + b * sigma) / (alpha**2 * self.variance + sigma**2)
        out, traces = self._with_traces(flat, t, cond, diagonal)
        scale = alpha + sigma
        return torch.cat([out, (a + b) / scale * w - scale * traces], 1)

    def log_scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """(1/2) sum_i log s_i^2, () or (B,), at levels () or (B,) in float64."""
        v = self.variance.to(alpha).expand(self.shape.numel())
        return 0.5 * (alpha[..., None] ** 2 * v + sigma[..., None] ** 2).log().sum(-1)

    def _with_traces(self, flat: Tensor, t: Tensor, cond: Any, diagonal: Tensor) -> tuple[Tensor, Tensor]:
        """The prediction (B, d) and tr M (B, R); with a graph where one leads to the state. A gradient that is wanted
        elsewhere alone needs one too: else our own leaf would be left in the caller's graph.
        """
        recording = torch.is_grad_enabled() and flat.requires_grad
        with torch.enable_grad():
            x = flat if recording else flat.detach().requires_grad_()
            out = self.model(x.reshape(-1, *self.shape), t, cond).flatten(1)
            if not out.requires_grad:
                raise ValueError(
                    "log_prob: got a network that is called under no_grad, expected one that autograd can "
                    "differentiate; take the no_grad out of it"
                )

            def pull(vectors: Tensor) -> Tensor:
                batched = len(vectors) > 1
                try:
                    (rows,) = torch.autograd.grad(
                        out, x, vectors if batched else vectors[0], retain_graph=True, create_graph=recording,
                        is_grads_batched=batched, allow_unused=True,
                    )  # fmt: skip
                except RuntimeError as error:
                    if batched:
                        error.add_note(
                            "the network's backward pass under vmap: a divergence with chunk=1 does without"
                        )
                    raise
                rows = torch.zeros_like(vectors) if rows is None else rows.reshape(vectors.shape)
                return rows - diagonal * vectors

            traces = self.divergence.traces(pull, self.held)
        return (out, traces) if recording else (out.detach(), traces.detach())

    def parameters(self) -> Iterator[Tensor]:
        yield from self.model.parameters()

    def networks(self) -> Iterator[nn.Module]:
        yield from self.model.networks()

    def check_times(self, times: Tensor) -> None:
        self.model.check_times(times)
