"""EndpointProcess: a forward process that ends at, or around, an image that the sampler is given."""

from abc import abstractmethod

import torch
from torch import Tensor

from ..broadcast import per_sample
from ..process import Process, as_time, slope


class EndpointProcess(Process):
    """x_t = a(t) e + s(t) y_t with y_t = alpha(t) x_0 + sigma(t) eps and an endpoint e that is known when sampling.

    A restoration model's degraded image, a bridge's x_T. Given e, y is an ordinary pair (alpha, sigma): plans run on
    y, `WithEndpoint` shows the network x. x_0 and eps are those of x, so that DATA and NOISE mean the same for both.
    """

    @abstractmethod
    def pull(self, t: Tensor | float) -> Tensor:
        """a(t), the factor on the endpoint; 0 at t_min."""

    def scale(self, t: Tensor | float) -> Tensor:
        """s(t), the length of y in x; 1 at t_min."""
        return torch.ones_like(as_time(t))

    def d_pull(self, t: Tensor | float) -> Tensor:
        """da/dt."""
        return slope(self.pull, t)

    def d_scale(self, t: Tensor | float) -> Tensor:
        """ds/dt."""
        return slope(self.scale, t)

    @abstractmethod
    def start(self, end: Tensor, noise: Tensor) -> Tensor:
        """y at t_max, (B, ...), from the endpoint and noise ~ N(0, I), both (B, ...)."""

    def state(self, y: Tensor, end: Tensor, t: Tensor | float) -> Tensor:
        """x_t, (B, ...), at a time or at (B,) times; y itself where a = 0 and s = 1, as at t_min."""
        a, s = (per_sample(value.to(y), y) for value in (self.pull(t), self.scale(t)))
        return a * end.to(y.dtype) + s * y
