"""CholeskyNoise: what networks of position and momentum predict, as a score."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..broadcast import per_sample
from ..calling import Calling, Positional, prediction_in
from .process import PhaseSpaceLangevin


@dataclass(frozen=True)
class CholeskyNoise:
    """score = -L^-T eps of a network's eps, with L L^T = Cov[z_t given x_0], L lower triangular.

        Denoiser(network, process, SCORE, call=CholeskyNoise(process))

    The network returns eps in the form of z, or that of the momentum alone, with half the channels: then the score of
    the position is given as 0, which CLD (gamma = 0) never uses. It is told the process's own t: leave `label` out.

    Source: arXiv 2112.07068, eq. 10; arXiv 2303.01748, eq. 15.
    """

    process: PhaseSpaceLangevin
    inner: Calling = Positional()

    def __call__(self, network: Any, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        eps = prediction_in(self.inner(network, x, t, cond)).to(
            t.dtype
        )  # the state's: a network may be of less
        cov = self.process.covariance(self.process.clock(t))
        l11 = cov[:, 0, 0].sqrt()  # by hand: on a GPU the library's checks, for which the host waits
        l21 = cov[:, 1, 0] / l11
        l22 = (cov[:, 1, 1] - l21**2).sqrt()
        l11, l21, l22 = (per_sample(c.to(eps), x) for c in (l11, l21, l22))
        if 2 * eps.shape[1] == x.shape[1]:
            if self.process.gamma:
                raise ValueError(
                    f"network output: got the momentum's half alone, {tuple(eps.shape)}, expected both for "
                    f"gamma={self.process.gamma}, whose position needs its score; PhaseSpaceLangevin.cld() does without"
                )
            return torch.cat([torch.zeros_like(eps), -eps / l22], 1)
        of_x, of_m = eps.chunk(2, 1)
        return torch.cat([-(of_x - l21 / l22 * of_m) / l11, -of_m / l22], 1)
