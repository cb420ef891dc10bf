"""Preconditioning: a raw network F whose input and output are scaled by noise level, as EDM's checkpoints are."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..broadcast import per_sample
from ..calling import Calling, Positional
from ..kinds import check_kind
from ..labels import Label
from ..model import Denoiser, Model
from ..prediction import DATA
from ..process import VP, Process, as_time
from ..wanted import Positive


class Preconditioning(Label):
    """D = c_skip y + c_out F(c_in y, c_noise) at y = x/alpha of noise level rho = sigma/alpha, EDM's sigma.

    As a label it is c_noise, what the network is told of t.
    """

    @abstractmethod
    def scales(self, rho: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(c_skip, c_out, c_in), float64."""

    @abstractmethod
    def told(self, rho: Tensor) -> Tensor:
        """c_noise, float64."""

    def __call__(self, t: Tensor, process: Process) -> Tensor:
        return self.told(process.sigma(t) / process.alpha(t)).to(t)


@dataclass(frozen=True)
class EDMPreconditioning(Preconditioning):
    """With S^2 = rho^2 + sigma_data^2: c_skip = sigma_data^2/S^2, c_out = rho sigma_data/S, c_in = 1/S, c_noise =
    log(rho)/4: input and target of F have unit variance. Source: Karras et al. 2022, arXiv 2206.00364, table 1.
    """

    sigma_data: Positive = 0.5

    def scales(self, rho: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        size = torch.hypot(rho, torch.full_like(rho, self.sigma_data))
        return (self.sigma_data / size) ** 2, rho * self.sigma_data / size, 1 / size

    def told(self, rho: Tensor) -> Tensor:
        return rho.log() / 4


@dataclass(frozen=True)
class TrigFlowPreconditioning(Preconditioning):
    """With theta = atan(rho/sigma_data): D = cos(theta)^2 y - sigma_data sin(theta) F(cos(theta) y/sigma_data, theta).

    EDM's scales, F of the other sign, told the angle: sCM's x_t = cos(t) x_0 + sin(t) z with z of deviation
    sigma_data is the process cos(t), sigma_data sin(t). Source: Lu and Song 2024, arXiv 2410.11081.
    """

    sigma_data: Positive = 0.5

    def scales(self, rho: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        skip, out, scale = EDMPreconditioning(self.sigma_data).scales(rho)
        return skip, -out, scale

    def told(self, rho: Tensor) -> Tensor:
        return torch.atan2(rho, torch.full_like(rho, self.sigma_data))


@dataclass(frozen=True)
class VPPreconditioning(Preconditioning):
    """c_skip = 1, c_out = -rho, c_in = 1/sqrt(rho^2 + 1), c_noise = (labels - 1) t with t the time at which
    VP(beta_min, beta_max) has this rho: score SDE's networks of eps, on any process. arXiv 2206.00364, table 1.
    """

    beta_min: Positive = 0.1
    beta_max: Positive = 20.0
    labels: Positive = 1000.0

    def scales(self, rho: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.ones_like(rho), -rho, 1 / torch.hypot(rho, torch.ones_like(rho))

    def told(self, rho: Tensor) -> Tensor:
        return (self.labels - 1) * VP(self.beta_min, self.beta_max).time(-rho.log())


@dataclass(frozen=True)
class VEPreconditioning(Preconditioning):
    """c_skip = 1, c_out = rho, c_in = 1, c_noise = log(rho/2): F = -eps. arXiv 2206.00364, table 1."""

    def scales(self, rho: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.ones_like(rho), rho, torch.ones_like(rho)

    def told(self, rho: Tensor) -> Tensor:
        return (rho / 2).log()


class Preconditioned(Model):
    """The DATA prediction of a raw network: an EDM checkpoint as it is, `Preconditioned(net.model, EDM())`.

    The pickled object of EDM's authors holds the wrapper already: it is `Denoiser(net, EDM(), DATA)`. On another
    process than EDM() the same network sees x/alpha, which is all it asks for.

    Args:
        network: F(c_in x, c_noise) or F(c_in x, c_noise, cond).
        process: whose x_t comes in.
        preconditioning: EDMPreconditioning(sigma_data), VPPreconditioning(), VEPreconditioning(),
            TrigFlowPreconditioning(sigma_data).
        label: what the network is told where that is not c_noise, as for `Denoiser`: `NoiseLevel()` for k-diffusion's
            networks, which take the logarithm themselves.
        dtype, call, modules: as for `Denoiser`; x is scaled before it is cast, the output after.

    Raises:
        ValueError: before a run whose calls would be at sigma = 0 or alpha = 0, where c_noise is infinite. A plan to
            sigma = 0 by EDMHeun, DDIM or DPMSolverPP makes none.
    """

    prediction = DATA

    def __init__(
        self,
        network: Callable[..., Any],
        process: Process,
        preconditioning: Preconditioning = EDMPreconditioning(),
        dtype: torch.dtype | None = None,
        *,
        call: Calling = Positional(),
        label: Callable[[Tensor, Process], Tensor] | None = None,
        modules: Iterable[Any] = (),
    ) -> None:
        check_kind(
            "preconditioning",
            preconditioning,
            Preconditioning,
            "one such as EDMPreconditioning(sigma_data=0.5)",
        )
        label = preconditioning if label is None else label
        self.raw = Denoiser(network, process, DATA, dtype, call=call, label=label, modules=modules)
        self.process, self.preconditioning = process, preconditioning

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        skip, out, scale = self._scales(x, t)
        return skip * x + out * self.raw(scale * x, t, cond)

    def target(self, x0: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """What F is trained to return for x at times t (B,): (x0 - c_skip x)/c_out, of unit variance under EDM's."""
        skip, out, _ = self._scales(x, t)
        return (x0 - skip * x) / out

    def _scales(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(c_skip/alpha, c_out, c_in/alpha): of x in the place of y."""
        alpha = self.process.alpha(t)
        skip, out, scale = self.preconditioning.scales(self.process.sigma(t) / alpha)
        return tuple(per_sample(c.to(x), x) for c in (skip / alpha, out, scale / alpha))  # type: ignore[return-value]

    def check_times(self, times: Tensor) -> None:
        rho = self.process.sigma(times) / self.process.alpha(times)
        bad = ~(rho.isfinite() & (rho > 0))
        if bool(bad.any()):
            t = as_time(times)[bad].flatten()[0]
            raise ValueError(
                f"Preconditioned: got a network call at t={float(t):.6g}, where sigma/alpha is "
                f"{float(rho[bad].flatten()[0]):.3g}, expected a positive finite level; end the grid inside the process"
            )
        self.raw.check_times(times)

    def around(self, network: Callable[..., Any]) -> "Preconditioned":
        """The same with another network."""
        raw = self.raw
        return Preconditioned(
            network,
            self.process,
            self.preconditioning,
            raw.dtype,
            call=raw.call,
            label=raw.label,
            modules=raw.modules,
        )

    def parameters(self) -> Iterator[Tensor]:
        return self.raw.parameters()

    def networks(self) -> Iterator[nn.Module]:
        return self.raw.networks()
