"""How a network is called, and what of its answer is the prediction.

A calling is any function `(network, x, t, cond) -> output`; those here wrap one another.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from .kinds import described

Calling = Callable[[Any, Any, Tensor, Any], Any]


@dataclass(frozen=True)
class Positional:
    """network(x, t), or network(x, t, cond) where cond is given: the default."""

    def __call__(self, network: Callable[..., Any], x: Any, t: Tensor, cond: Any) -> Any:
        return network(x, t) if cond is None else network(x, t, cond)


@dataclass(frozen=True)
class Keywords:
    """network(x, t, **cond): conditioning is a dict of keyword arguments, as diffusers' networks take theirs.

        Denoiser(unet, process, NOISE, call=Keywords())
        sample(denoiser, plan, x, cond={"encoder_hidden_states": text})

    Args:
        x, t: names for these two where they are to go by name as well: `Keywords("x", "t")` calls
            network(x=x, t=t, **cond), as flow_matching does. None: by place.

    Raises:
        TypeError: cond is not a dict, or has one of these names.
    """

    x: str | None = None
    t: str | None = None

    def __call__(self, network: Callable[..., Any], x: Any, t: Tensor, cond: Any) -> Any:
        if cond is not None and not isinstance(cond, Mapping):
            raise TypeError(
                f"cond: got {described(cond)}, expected a dict of the network's keyword arguments for "
                'call=Keywords(); pass cond={"encoder_hidden_states": ...}, or leave call= out'
            )
        cond = {} if cond is None else cond
        if self.x is None and self.t is None:
            return network(x, t, **cond)
        placed = [value for name, value in ((self.x, x), (self.t, t)) if name is None]
        named = {name: value for name, value in ((self.x, x), (self.t, t)) if name is not None}
        if twice := named.keys() & cond.keys():
            raise TypeError(
                f"cond: got an entry {sorted(twice)[0]!r}, expected none of the name that {self} gives to x or t; "
                "leave it out of cond, or name x and t as the network does"
            )
        return network(*placed, **named, **cond)


@dataclass(frozen=True)
class TimeFirst:
    """network(t, x) and what else `inner` passes: the order of ODE solvers, torchcfm and torchdiffeq."""

    inner: Calling = Positional()

    def __call__(self, network: Callable[..., Any], x: Any, t: Tensor, cond: Any) -> Any:
        def swapped(x: Any, t: Tensor, *rest: Any, **named: Any) -> Any:
            return network(t, x, *rest, **named)

        return self.inner(swapped, x, t, cond)


@dataclass(frozen=True)
class FirstChannels:
    """The first C of the channels (axis 1) that come back, C those of x: what a network with learned variances
    appends is left out. Source of such networks: Nichol and Dhariwal 2021, arXiv 2102.09672, section 3.1.
    """

    inner: Calling = Positional()

    def __call__(self, network: Callable[..., Any], x: Any, t: Tensor, cond: Any) -> Tensor:
        return prediction_in(self.inner(network, x, t, cond))[:, : x.shape[1]]


@dataclass(frozen=True)
class CastCond:
    """Every floating point tensor of the conditioning in `dtype`: float32 text embeddings before a bf16 network
    that does not cast them itself. Integers stay, and so does t: bf16 has no 999. Gradients reach the original.
    """

    dtype: torch.dtype
    inner: Calling = Positional()

    def __call__(self, network: Callable[..., Any], x: Any, t: Tensor, cond: Any) -> Any:
        return self.inner(network, x, t, tree_map(self._cast, cond))

    def _cast(self, leaf: Any) -> Any:
        return leaf.to(self.dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def prediction_in(out: Any) -> Any:
    """The prediction in what a network returned: a tensor itself; its `sample` (diffusers' outputs); the first of a
    tuple or list; of a dict the entry "sample", or the only one.

    Raises:
        TypeError: none of these.
    """
    if isinstance(out, Tensor):
        return out
    if isinstance(found := getattr(out, "sample", None), Tensor):
        return found
    if isinstance(out, Mapping):
        found = out.get("sample", next(iter(out.values())) if len(out) == 1 else None)
    elif isinstance(out, tuple | list) and out:
        found = out[0]
    if isinstance(found, Tensor):
        return found
    inside = f" with {sorted(map(str, out))}" if isinstance(out, Mapping) else ""
    raise TypeError(
        f"network output: got {described(out)}{inside}, expected a tensor, an object with `.sample`, a tuple or list "
        "that begins with a tensor, or a dict of one tensor; pick it yourself: Denoiser(..., call=lambda network, x, "
        "t, cond: network(x, t)[...])"
    )
