"""From pictures to a pipeline's latents: what it does after its loop, undone."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .decoding import Reached, closed
from .opened import OpenedLoop, decoder_of
from .twins import cast

FRAMES, VIDEO = 4, 5  # dimensions of (B, C, H, W) and of (B, C, F, H, W)


class _Made(tuple[Tensor, ...]):
    """What a VAE's `decode` returns, whichever way it is asked for it."""

    __slots__ = ()

    @property
    def sample(self) -> Tensor:
        return self[0]


@dataclass(frozen=True, eq=False)
class _Looked:
    """Notes what a pipeline hands to its VAE, as many calls as it makes: of videos some decode a few frames each."""

    whole: int
    seen: list[Tensor]

    def __call__(self, vae: nn.Module, z: Tensor, *args: Any, **kwargs: Any) -> _Made:
        self.seen.append(z)
        known = sum(each.numel() for each in self.seen)
        if z.ndim != FRAMES or known >= self.whole:
            raise Reached(torch.cat(self.seen))
        return _Made((z,))


@dataclass(frozen=True, eq=False)
class _Code:
    """z(x) = `scale` x[`place`] + `shift`: what the VAE is handed, number by number.

    Attributes:
        shift, scale, place: of z's shape.
        shape: of x.
    """

    shift: Tensor
    scale: Tensor
    place: Tensor
    shape: torch.Size

    @staticmethod
    def of(loop: OpenedLoop, name: str) -> "_Code":
        """By looking at the z of a few x: which number of x stands at a place is read digit by digit."""
        shape = loop.state.shape
        zero = torch.zeros(shape, device=loop.state.device)

        def seen(x: Tensor) -> Tensor:
            return closed(loop, loop.variables, x, name, _Looked(x.numel(), [])).double()

        shift = seen(zero)
        scale = seen(zero + 1) - shift
        number = torch.arange(zero.numel(), device=zero.device)
        place = torch.zeros_like(shift, dtype=torch.long)
        for digit in range(max(1, (len(number) - 1).bit_length())):
            bit = (number >> digit) & 1
            place |= ((seen(bit.reshape(shape).to(zero)) - shift).abs() > scale.abs() / 2).long() << digit
        return _Code(shift, scale, place, shape)

    @property
    def whole(self) -> bool:
        """Whether every number of x is in z, once."""
        return self.place.numel() == self.shape.numel() == self.place.unique().numel()

    def undone(self, z: Tensor) -> Tensor:
        found = torch.empty(self.shape.numel(), dtype=torch.double, device=z.device)
        return found.index_copy(
            0, self.place.reshape(-1), ((z - self.shift) / self.scale).reshape(-1).to(found)
        ).reshape(self.shape)


def latents_of(loop: OpenedLoop, picture: Tensor, generator: torch.Generator | None) -> Tensor:
    """The latents x that `decoded` makes z(x) = the VAE's code of the picture of, before it decodes: z is x with its
    numbers scaled, shifted and put into another order, which is found out by looking. A picture is one frame to a VAE
    of videos, and a video its frames to a VAE of pictures.
    """
    name, own = decoder_of(loop.pipe), loop.code.source.name
    if name is None:
        if picture.shape != loop.state.shape:
            raise ValueError(
                f"encode: got {tuple(picture.shape)}, expected {tuple(loop.state.shape)}, what {own} samples with "
                "these arguments; it has no VAE"
            )
        return picture
    vae, code = getattr(loop.pipe, name), _Code.of(loop, name)
    if not code.whole:
        raise ValueError(
            f"encode: got {own}, which decodes {int((code.scale != 0).sum())} of the {code.shape.numel()} numbers of "
            "its latents with these arguments and puts others in the place of the rest, expected all; encode with "
            f"its {name} by hand"
        )
    laid = _laid(picture, code.shift, own)
    try:
        z = _encoded(vae, laid, generator)
    except (RuntimeError, ValueError, TypeError, IndexError) as refused:
        raise ValueError(f"{_wrong(picture, code.shift, own)}; its {name} says: {refused}") from refused
    if z.shape != code.shift.shape:
        raise ValueError(
            f"{_wrong(picture, code.shift, own)}, but its code is {tuple(z.shape)}; pass what found.decode gives, of "
            "its height, width and number of frames"
        )
    return code.undone(z).to(loop.state.dtype)


def _wrong(picture: Tensor, z: Tensor, own: str) -> str:
    return (
        f"encode: got {tuple(picture.shape)}, expected a picture with code {tuple(z.shape)}, as {own} decodes"
    )


def _laid(picture: Tensor, z: Tensor, own: str) -> Tensor:
    """The picture as the VAE takes it."""
    if not picture.is_floating_point():
        raise ValueError(
            f"encode: got {picture.dtype}, expected floating point numbers in [-1, 1]; scale them"
        )
    found = picture
    if (picture.ndim, z.ndim) == (FRAMES, VIDEO):
        found = picture.unsqueeze(2)
    elif (picture.ndim, z.ndim) == (VIDEO, FRAMES):
        found = picture.movedim(2, 1).flatten(0, 1)
    if found.ndim != z.ndim:
        raise ValueError(
            f"{_wrong(picture, z, own)}, of {z.ndim} dimensions; pass (B, C, H, W), or (B, C, F, H, W) of a video"
        )
    if len(found) != len(z):
        raise ValueError(
            f"{_wrong(picture, z, own)}: {len(z)} frames in all, not {len(found)}; pass as many as it samples"
        )
    return found


def _encoded(vae: Any, picture: Tensor, generator: torch.Generator | None) -> Tensor:
    """The VAE's code: the mean, or a sample by `generator`. In float32 where the VAE says that float16 does not do."""
    first = next(vae.parameters())
    if first.dtype == torch.float16 and getattr(vae.config, "force_upcast", False):
        vae = cast(vae, torch.float32)
        first = next(vae.parameters())
    found = vae.encode(picture.to(first))
    posterior = getattr(found, "latent_dist", None)
    if posterior is None:
        return found.latents if hasattr(found, "latents") else found.latent
    return posterior.mode() if generator is None else posterior.sample(generator)
