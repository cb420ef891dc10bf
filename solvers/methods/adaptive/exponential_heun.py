"""ExponentialHeun: the pair behind `accepted_times`."""

import torch
from torch import Tensor

from ...broadcast import per_sample
from ...prediction import DATA
from ..weights import phi
from .embedded import Ask, EmbeddedPair, Node
from .step_control import IntegralControl


class ExponentialHeun(EmbeddedPair):
    """DDIM beside x_t = (sigma_t/sigma_s) x + alpha_t (w_0 D_s + w_1 (D_t - D_s)), D_t at DDIM's end.

    Errors are in units of atol + rtol max(|x|, |low|).
    """

    want = DATA
    calls = 2
    order = 2
    control = IntegralControl()

    def attempt(
        self, ask: Ask, x: Tensor, here: Tensor, start: Node, end: Node, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        h = (end.lam - start.lam).tolist()

        def weighted(k: int, value: Tensor) -> Tensor:
            weights = torch.tensor([phi(v, k) for v in h], dtype=torch.float64)
            return per_sample((end.alpha * weights).to(x), x) * value

        low = per_sample((end.sigma / start.sigma).to(x), x) * x + weighted(0, here)
        return low, low + weighted(1, ask(low, end.t, DATA) - here)

    def error(self, x: Tensor, low: Tensor, high: Tensor, before: Tensor, rtol: float, atol: float) -> Tensor:
        scale = atol + rtol * x.abs().maximum(low.abs())
        return ((high - low) / scale).square().flatten(1).mean(1).sqrt()
