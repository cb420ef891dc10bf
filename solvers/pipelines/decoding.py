"""From a pipeline's latents to pictures and back, by what the pipeline does after its loop."""

import inspect
import weakref
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as checkpointed

from .compiled import Local
from .lent import INNER, lent
from .opened import OpenedLoop, decoder_of
from .twins import castable, twin

PROCESSORS = ("image_processor", "video_processor")


class _Reached(Exception):  # noqa: N818  (no error: what the pipeline was to hand on)
    """Ends the pipeline's closing with what it has made."""

    def __init__(self, made: Tensor) -> None:
        super().__init__()
        self.made = made


def _stand_in(vae: nn.Module, decode: Callable[..., Any]) -> nn.Module:
    """A pipeline's VAE with another `decode`, called with the VAE in the type that the pipeline has cast it to: of its
    class still, as pipelines ask for.
    """
    own = castable(vae)
    own_type = next((each.dtype for each in vae.parameters()), None)
    vars(own)["decode"] = _Decoding(weakref.ref(own), vae, own_type, decode)
    return own


@dataclass(frozen=True, eq=False)
class _Decoding:
    """Calls `decode` with the VAE, or with the twin of other type that its stand-in has become."""

    stand_in: Callable[[], nn.Module | None]
    vae: nn.Module
    dtype: torch.dtype | None
    decode: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        now = self.stand_in()
        vae = self.vae
        if now is not None and next((each.dtype for each in now.parameters()), None) != self.dtype:
            vae = twin(vae, type(vae).__name__)
            vars(vae).update({name: vars(now)[name] for name in INNER})
        return self.decode(vae, *args, **kwargs)


class _Processor:
    """In place of what makes pictures of tensors: hands the tensor on."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __getattr__(self, name: str) -> Any:
        if name.startswith("postprocess"):
            return _handed
        return getattr(self._processor, name)


def _handed(*args: Any, **kwargs: Any) -> Any:
    raise _Reached(next(each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)))


def decoded(loop: OpenedLoop, variables: Local, x: Tensor, checkpoint: bool) -> Tensor:
    """The picture, in the VAE's own range, of latents x; `variables` of the loop, as functions of conditioning."""
    name = decoder_of(loop.pipe)
    if name is None:
        return _plain(loop, variables, x)

    def decode(vae: Any, z: Tensor, *args: Any, **kwargs: Any) -> Any:
        if checkpoint and torch.is_grad_enabled():
            return checkpointed(vae.decode, z, *args, use_reentrant=False, **kwargs)
        return vae.decode(z, *args, **kwargs)

    x = x.to(loop.state.dtype)  # as the loop would hand it on: a plan's is wider
    if any(hasattr(loop.pipe, each) for each in PROCESSORS) and loop.code.processes:
        return _closed(loop, variables, x, name, decode)

    def first(vae: Any, z: Tensor, *args: Any, **kwargs: Any) -> Any:
        out = decode(vae, z, *args, **kwargs)
        raise _Reached(out[0] if isinstance(out, tuple) else out.sample)

    return _closed(loop, variables, x, name, first)


def _plain(loop: OpenedLoop, variables: Local, x: Tensor) -> Tensor:
    """What a pipeline without a decoder makes of latents x: a prior scales its embeddings; one of pictures has them."""
    default = inspect.signature(loop.code.opening).parameters.get("output_type")
    if default is None or default.default != "pt":
        return x
    given = {loop.code.source.state: x, "output_type": "pt", "return_dict": False}
    with lent(loop.pipe, loop.code.source.parts):
        found = loop.code.played(loop.code.closing, variables, **given)
    return found[0] if isinstance(found, tuple) else found


def latents_of(loop: OpenedLoop, picture: Tensor, generator: torch.Generator | None) -> Tensor:
    """The latents x that `decoded` makes z(x) = the VAE's code of the picture of, before it decodes: z is x with its
    numbers scaled, shifted and put into another order, which is found out by looking.
    """
    name = decoder_of(loop.pipe)
    if name is None:
        return picture
    vae, shape, device = getattr(loop.pipe, name), loop.state.shape, loop.state.device

    def seen(x: Tensor) -> Tensor:
        return _closed(loop, loop.variables, x, name, _handed).double()

    zero = torch.zeros(shape, device=device)
    shift = seen(zero)
    scale = seen(zero + 1) - shift
    number = torch.arange(zero.numel(), device=device)
    place = torch.zeros_like(
        shift, dtype=torch.long
    )  # which number of x stands there: its binary digits one by one
    for digit in range(max(1, (len(number) - 1).bit_length())):
        bit = (number >> digit) & 1
        place |= ((seen(bit.reshape(shape).to(zero)) - shift).abs() > scale.abs() / 2).long() << digit
    code = _encoded(vae, picture, generator)
    if code.shape != shift.shape or place.unique().numel() != place.numel() or place.numel() != zero.numel():
        raise ValueError(
            f"image: got {tuple(picture.shape)} with code {tuple(code.shape)}, expected {tuple(shift.shape)}, as "
            f"{loop.code.source.name} decodes with these arguments; pass an image of its height and width in [-1, 1]"
        )
    found = torch.empty_like(zero, dtype=torch.double).reshape(-1)
    found = found.index_copy(0, place.reshape(-1), ((code - shift) / scale).reshape(-1).to(found))
    return found.reshape(shape).to(loop.state.dtype)


def _encoded(vae: nn.Module, picture: Tensor, generator: torch.Generator | None) -> Tensor:
    """The VAE's code: the mean, or a sample by `generator`."""
    first = next(vae.parameters())
    found = vae.encode(picture.to(first))  # type: ignore[operator]
    posterior = getattr(found, "latent_dist", None)
    if posterior is None:
        return found.latents if hasattr(found, "latents") else found.latent
    return posterior.mode() if generator is None else posterior.sample(generator)


def _closed(loop: OpenedLoop, variables: Local, x: Tensor, name: str, decode: Callable[..., Any]) -> Tensor:
    """What reaches the pipeline's processor of pictures, or what `decode` hands out before."""
    pipe = _closing(loop.pipe)
    vars(pipe)[name] = _stand_in(getattr(loop.pipe, name), decode)
    for each in PROCESSORS:
        if hasattr(pipe, each):
            vars(pipe)[each] = _Processor(getattr(pipe, each))
    x = x.to(loop.state.dtype)  # a plan's state is wider than the networks' half precision
    whole = x.repeat(loop.doubled, *[1] * (x.ndim - 1)) if loop.doubled > 1 else x
    given = {**dict.fromkeys(loop.code.source.stepped, whole), loop.code.source.state: whole}
    given |= {"self": pipe, "output_type": "pt", "generator": None}
    try:
        loop.code.played(loop.code.closing, variables, **given)
    except _Reached as reached:
        return reached.made
    raise ValueError(f"{loop.code.source.name}: got no call of {name}.decode after its loop; decode by hand")


def _closing(pipe: Any) -> Any:
    """A copy of the pipeline that neither judges nor marks what it has made."""
    own = copy(pipe)
    for each in ("safety_checker", "watermark"):
        if hasattr(own, each):
            vars(own)[each] = None
    return own
