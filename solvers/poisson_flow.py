"""PFGM++: data among D further dimensions, whose electric field takes the place of the score."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .broadcast import per_sample
from .checked import CheckedFields, checked
from .wanted import Positive, Samples


@dataclass(frozen=True)
class PoissonFlow(CheckedFields):
    """x = x_0 + sigma n, n of N numbers with density proportional to (1 + |n|^2/D)^(-(N + D)/2): a ball of charge seen
    from distance r = sigma sqrt(D) in D dimensions that the data do not have.

    Along the field's lines dx/dsigma = (x - E[x_0 given x])/sigma, EDM's equation: a network of E[x_0 given x] trained
    on `perturbed` samples is a Denoiser of DATA on EDM(), EDMHeun on Karras(n) its sampler, `prior` its start. Only
    plans without noise keep its laws: the noise that they draw is normal. D = 1 is PFGM; D -> inf is EDM, n normal.

        flow = PoissonFlow(128)
        loss = weight * (model(flow.perturbed(x0, sigma, generator), sigma) - x0).square()
        sample(model, EDMHeun().plan(EDM(), Karras(18)), flow.prior(like, 80.0, generator))

    Args:
        extra: D > 0, any number.

    Source: Xu et al. 2023, arXiv 2302.04265, section 3 and 4.
    """

    extra: Positive

    def radius(self, sigma: Tensor | float) -> Tensor | float:
        """r = sigma sqrt(D), the distance in the further dimensions that stands for noise level sigma."""
        return sigma * self.extra**0.5

    @checked
    def noise(self, like: Samples, generator: torch.Generator) -> Tensor:
        """n in the shape, dtype and device of `like` (B, ...); the generator lives there too.

        Its length is sqrt(D R/(1 - R)), R of Beta(N/2, D/2) (the inverse beta law), its direction uniform.
        """
        kind: Any = {"dtype": torch.promote_types(like.dtype, torch.float32), "device": like.device}
        direction = torch.randn(like.shape, generator=generator, **kind)
        # R/(1 - R) is a ratio of gammas: that over the sum of squares of a normal vector, which is the direction's own
        half = torch.full((len(like),), self.extra / 2, **kind)
        # what torch.distributions.Gamma draws with, which takes no generator
        gamma = torch._standard_gamma(half, generator=generator)  # pyright: ignore[reportPrivateImportUsage]
        return (direction * per_sample((self.extra / (2 * gamma)).sqrt(), like)).to(like.dtype)

    @checked
    def prior(self, like: Samples, sigma: Positive, generator: torch.Generator) -> Tensor:
        """Where sampling starts: sigma n, the law of x at a sigma beside which the data are a point."""
        return sigma * self.noise(like, generator)

    @checked
    def perturbed(self, x0: Samples, sigma: Tensor, generator: torch.Generator) -> Tensor:
        """x_0 + sigma n at levels sigma (B,). A network of DATA is trained to give x0 back; a raw one
        `Preconditioned.target(x0, x, sigma)`.
        """
        if sigma.numel() not in (1, len(x0)):
            raise ValueError(
                f"sigma: got shape {tuple(sigma.shape)}, expected ({len(x0)},), one for each sample; draw as many"
            )
        return x0 + per_sample(sigma.to(x0), x0) * self.noise(x0, generator)

    def log_kernel(self, offset: Tensor, sigma: Tensor | float) -> Tensor:
        """log p(x given x_0), (B,), of offsets x - x_0 (B, ...) at sigma > 0, a number or (B,); float32 at least."""
        flat = offset.flatten(1).to(torch.promote_types(offset.dtype, torch.float32))
        n, d = flat.shape[1], self.extra
        sigma = torch.as_tensor(sigma, dtype=flat.dtype, device=flat.device)
        level, extra = sigma.log(), flat.new_tensor(d)
        constant = torch.lgamma((n + extra) / 2) - torch.lgamma(extra / 2) - n / 2 * (torch.pi * extra).log()
        square = (flat / per_sample(sigma, flat)).square().sum(1) / d
        return constant - n * level - (n + d) / 2 * square.log1p()
