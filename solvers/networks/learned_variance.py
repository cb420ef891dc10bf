"""A network that predicts how uncertain a step is beside what it denoises to."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ..calling import Calling, FirstChannels, Positional
from ..model import Denoiser
from ..process import Process


class LearnedVariance(Denoiser):
    """A Denoiser whose network returns 2 C channels for C of x: the prediction, then v, which says the variance.

        model = LearnedVariance(network, process, NOISE)
        sample(model, DDPM(PosteriorVariance.LEARNED).plan(process, grid), x, noise=...)

    Other plans and wrappers see the prediction alone, as with `call=FirstChannels()`. Arguments are Denoiser's. Source
    of such networks: Nichol and Dhariwal 2021, arXiv 2102.09672, section 3.1.
    """

    learns_variance = True

    def __init__(
        self,
        network: Callable[..., Any],
        process: object,
        prediction: object,
        dtype: torch.dtype | None = None,
        *,
        call: Calling = Positional(),
        label: Callable[[Tensor, Process], Tensor] | None = None,
        modules: Iterable[Any] = (),
    ) -> None:
        super().__init__(
            network, process, prediction, dtype, call=FirstChannels(call), label=label, modules=modules
        )

    def around(self, network: Callable[..., Any]) -> "LearnedVariance":
        """The same with another network, which says its variance too."""
        assert isinstance(self.call, FirstChannels)
        return LearnedVariance(
            network,
            self.process,
            self.prediction,
            self.dtype,
            call=self.call.inner,
            label=self.label,
            modules=self.modules,
        )

    def with_variance(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        assert isinstance(self.call, FirstChannels)
        out = self._output(self.call.inner, x, t, cond)
        wanted = (x.shape[0], 2 * x.shape[1], *x.shape[2:])
        if out.shape != wanted:
            raise ValueError(
                f"network output: got shape {tuple(out.shape)}, expected {wanted}: the prediction and v along axis 1; "
                "for a network without v pass Denoiser(...)"
            )
        return out.to(x.dtype)
