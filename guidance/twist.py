"""Twist: a guide that knows how likely it thinks the measurement is, given a noisy state."""

from abc import ABC, abstractmethod

from torch import Tensor

from .context import Context
from .guide import Guide


class Twist(Guide, ABC):
    """A guide with its own log p(y | x_t). As the proposal of `smc` it weighs particles by that on the way, in place of
    exp(r(D(x_t))), which takes the prediction for certain: at high noise far too sharp. The last weight stays exact.

    Source: Wu et al. 2023 (twisted diffusion sampler), arXiv 2306.17775, section 3.2: any positive twisting function will do,
    the nearer to p(y | x_t) the less the weights vary.
    """

    @abstractmethod
    def log_likelihood(self, ctx: Context) -> Tensor:
        """log p(y | x_t) (B,) at the call whose data prediction the guide has just corrected, up to a constant of the time t
        that all particles share. Free: `data` has computed it."""
