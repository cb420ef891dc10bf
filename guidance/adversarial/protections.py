"""Protections of an image against editing by a diffusion model: the losses, each handed to `pgd`."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...solvers import NOISE, Addressed, Model, convert
from ...solvers.broadcast import per_sample
from ...solvers.checked import CheckedFields
from ...solvers.model import data_prediction
from ...solvers.notebook import Shown

ImageEncoder = Callable[[Tensor], Tensor]  # images (B, ...) to latents (B, ...)
EPS, TIME = 0, 1  # slots of the noise


class Protection(CheckedFields, ABC):
    """What a protector minimises of an image, (B,): pgd(Expectation(protection, draws), image, Linf(8 / 255))."""

    @abstractmethod
    def __call__(self, image: Tensor, noise: Addressed) -> Tensor:
        """(B,), differentiable, under one draw of noise."""


@dataclass(frozen=True, eq=False, repr=False)
class PhotoGuardEncoder(Shown, Protection):
    """|E(x) - target|^2: the editor's encoder takes the image for another. Needs no noise: pgd(protection, image, ...).

    Source: Salman et al. 2023, arXiv 2302.06588, the encoder attack.
    """

    encoder: ImageEncoder
    target: Tensor

    def __call__(self, image: Tensor, noise: Addressed | None = None) -> Tensor:
        return _square(self.encoder(image) - self.target)


@dataclass(frozen=True, eq=False, repr=False)
class PhotoGuardDiffusion(Shown, Protection):
    """|edit(x, noise) - target|^2 through the whole editor: what it makes of the image becomes the target.

        PhotoGuardDiffusion(lambda x, noise: purify(denoiser, plan, x, noise.initial(x), cond=prompt), target)

    is the attack on SDEdit, exact at the memory of the strategy; published runs unroll 4 steps of an editor that takes
    100. Source: Salman et al. 2023, arXiv 2302.06588, the diffusion attack. Cost: the editor's, and its gradient's.
    """

    edit: Callable[[Tensor, Addressed], Tensor]
    target: Tensor

    def __call__(self, image: Tensor, noise: Addressed) -> Tensor:
        return _square(self.edit(image, noise) - self.target)


@dataclass(frozen=True, eq=False)
class AdvDM(Protection):
    """-|eps_hat(z_t, t) - eps|^2, z_t = alpha E(x) + sigma eps: the denoiser's training loss grows on the image.

    Args:
        times: (low, high), t uniform between them, drawn by sample.  encoder: of a latent model; default the identity.

    Source: Liang et al. 2023, arXiv 2302.04578. Cost: one network call and its VJP a draw.
    """

    denoiser: Model
    times: tuple[float, float]
    encoder: ImageEncoder | None = None
    cond: Any = None

    def __call__(self, image: Tensor, noise: Addressed) -> Tensor:
        latent = _encoded(self.encoder, image)
        state, t = _diffused(self.denoiser, latent, self.times, noise)
        return -_denoising_loss(self.denoiser, latent, data_prediction(self.denoiser, state, t, self.cond), t)


@dataclass(frozen=True, eq=False)
class ScoreDistillation(Protection):
    """`AdvDM` without the denoiser's Jacobian: its value, and scale times its gradient with D(z_t) held,

        -scale 2 (alpha/sigma)^2 (E(x) - D(z_t)) dE/dx

    which with scale = -1 smooths the image towards what the model takes it for, found the harder to undo. Under any
    prediction, on flows too: FLOW's error v_hat - v is (E(x) - D)/sigma.

    Source: Xue et al. 2024, arXiv 2311.12832 (SDS+ and, scale = -1, SDS-). Cost: one network call a draw, no VJP.
    """

    denoiser: Model
    times: tuple[float, float]
    encoder: ImageEncoder | None = None
    cond: Any = None
    scale: float = 1.0

    def __call__(self, image: Tensor, noise: Addressed) -> Tensor:
        latent = _encoded(self.encoder, image)
        with torch.no_grad():
            state, t = _diffused(self.denoiser, latent, self.times, noise)
            data = data_prediction(self.denoiser, state, t, self.cond)
        return -self.scale * _denoising_loss(self.denoiser, latent, data, t)


@dataclass(frozen=True, eq=False, repr=False)
class Mist(Shown, Protection):
    """|E(x) - target|^2 - weight |eps_hat(z_t, t) - eps|^2: PhotoGuard's encoder attack and AdvDM's at once.

    Source: Liang and Wu 2023, arXiv 2305.12683, the fused mode. The two are sums over latents and grow with their size:
    choose the weight by their sizes on your model.
    """

    encoder: ImageEncoder
    target: Tensor
    denoiser: Model
    times: tuple[float, float]
    weight: float
    cond: Any = None

    def __call__(self, image: Tensor, noise: Addressed) -> Tensor:
        textural = PhotoGuardEncoder(self.encoder, self.target)(image)
        semantic = AdvDM(self.denoiser, self.times, self.encoder, self.cond)(image, noise)
        return textural + self.weight * semantic


@dataclass(frozen=True, eq=False)
class DiffusionGuard(Protection):
    """-|eps_hat(z_T, T, condition(x, noise))|^2, z_T = alpha E(x) + sigma eps at one early time T near pure noise.

    An inpainting editor sees the image in its condition, masked, and settles what it will draw in its first steps: one
    call at T stands for all. Draw masks in `condition`, so that the protection holds under the mask that an editor
    will choose: `noise` has slots from 2 on to spare.

    Source: Choi et al. 2024, arXiv 2410.05694. Cost: one network call and its VJP a draw.
    """

    denoiser: Model
    time: float
    condition: Callable[[Tensor, Addressed], Any] | None = None
    encoder: ImageEncoder | None = None

    def __call__(self, image: Tensor, noise: Addressed) -> Tensor:
        state, t = _diffused(self.denoiser, _encoded(self.encoder, image), (self.time, self.time), noise)
        cond = None if self.condition is None else self.condition(image, noise)
        out, model = self.denoiser(state, t.to(state), cond), self.denoiser
        eps = (
            out
            if model.prediction == NOISE
            else convert(out, state, model.prediction, NOISE, model.process, t)
        )
        return -_square(eps)


def _diffused(
    denoiser: Model, latent: Tensor, times: tuple[float, float], noise: Addressed
) -> tuple[Tensor, Tensor]:
    """(alpha latent + sigma eps, t (B,) in float64), t uniform between the two times."""
    low, high = times
    # Phi of a normal number is uniform on (0, 1)
    share = torch.special.ndtr(noise(TIME, latent.detach().new_zeros(len(latent), 1)).double().flatten())
    t = low + (high - low) * share
    alpha, sigma = (
        per_sample(level(t.cpu()).to(latent), latent)
        for level in (denoiser.process.alpha, denoiser.process.sigma)
    )
    return alpha * latent + sigma * noise(EPS, latent), t.cpu()


def _denoising_loss(denoiser: Model, latent: Tensor, data: Tensor, t: Tensor) -> Tensor:
    """|eps_hat - eps|^2 from the data prediction: eps_hat = (z_t - alpha D)/sigma and eps = (z_t - alpha z)/sigma."""
    return (2 * denoiser.process.lam(t)).exp().to(latent) * _square(latent - data)


def _encoded(encoder: ImageEncoder | None, image: Tensor) -> Tensor:
    return image if encoder is None else encoder(image)


def _square(x: Tensor) -> Tensor:
    return x.flatten(1).square().sum(1)
