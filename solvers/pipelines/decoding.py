"""From a pipeline's latents to pictures, by what the pipeline does after its loop."""

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


class Reached(Exception):  # noqa: N818  (no error: what the pipeline was to hand on)
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
    raise Reached(next(each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)))


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
        return closed(loop, variables, x, name, decode)

    def first(vae: Any, z: Tensor, *args: Any, **kwargs: Any) -> Any:
        out = decode(vae, z, *args, **kwargs)
        raise Reached(out[0] if isinstance(out, tuple) else out.sample)

    return closed(loop, variables, x, name, first)


def _plain(loop: OpenedLoop, variables: Local, x: Tensor) -> Tensor:
    """What a pipeline without a decoder makes of latents x: a prior scales its embeddings; one of pictures has them."""
    default = inspect.signature(loop.code.opening).parameters.get("output_type")
    if default is None or default.default != "pt":
        return x
    given = {loop.code.source.state: x, "output_type": "pt", "return_dict": False}
    with lent(loop.pipe, loop.code.source.parts):
        found = loop.code.played(loop.code.closing, variables, **given)
    return found[0] if isinstance(found, tuple) else found


def closed(loop: OpenedLoop, variables: Local, x: Tensor, name: str, decode: Callable[..., Any]) -> Tensor:
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
    except Reached as reached:
        return reached.made
    raise ValueError(f"{loop.code.source.name}: got no call of {name}.decode after its loop; decode by hand")


def _closing(pipe: Any) -> Any:
    """A copy of the pipeline that neither judges nor marks what it has made."""
    own = copy(pipe)
    for each in ("safety_checker", "watermark"):
        if hasattr(own, each):
            vars(own)[each] = None
    return own
