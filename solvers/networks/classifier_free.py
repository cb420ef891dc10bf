"""Classifier-free guidance: two predictions of one network, extrapolated."""

import enum
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..broadcast import per_sample
from ..kinds import check_kind, described
from ..model import Model


class Passes(enum.Enum):
    """How the two predictions are made."""

    TWO = "two network calls of B samples"
    ONE = "one network call of 2B samples"


class Guided(NamedTuple):
    """Conditioning with a guidance scale of its own, in place of the model's: `cond=Guided(cond, PerStep(scales))`.

    A part of the conditioning like any other: scales (N,) per step, (N, B) per step and sample, or (), (B,) for the
    whole run; they receive their gradient under every strategy. A scale of 1 at some steps limits guidance to the
    others (Kynkäänniemi et al. 2024, arXiv 2404.07724).
    """

    cond: Any
    scale: Any


class ClassifierFree(Model):
    """out = null + scale (cond - null). Source: Ho and Salimans 2022, arXiv 2207.12598, eq. 6 with scale = w + 1.

    Args:
        denoiser: called with `null` and with `cond`.
        scale: guidance scale; 1 is conditional sampling, 0 unconditional; a tensor, () or one for each sample (B,) or
            channel (C, 1, 1), receives its gradient. A run's own, per step too: `Guided`.
        null: the unconditional conditioning, nested as cond is. Each tensor in it is one for all samples, without
            the batch axis of its counterpart in cond or with one of length 1, or has that counterpart's shape.
        passes: ONE makes a single call of 2B samples, which suits a GPU that B do not fill: the same to round-off;
            null and cond must then be nested alike, and every tensor of cond (B, ...) or (1, ...).

    Of a `LearnedVariance` the variance is the conditional call's.

    Cost: two network calls per evaluation, or one of twice the batch.
    """

    def __init__(
        self, denoiser: Model, scale: float | Tensor, null: Any = None, passes: Passes = Passes.TWO
    ) -> None:
        check_kind(
            "denoiser",
            denoiser,
            Model,
            "a Denoiser; wrap the network: Denoiser(network, process, prediction)",
        )
        check_kind("scale", scale, (int, float, Tensor), "a number or a tensor () or (B,); pass 4.0, or "
                   "cond=Guided(cond, PerStep(scales)) for one a step")  # fmt: skip
        if isinstance(scale, int | float) and not math.isfinite(scale):
            raise ValueError(f"scale: got {scale}, expected a finite number; pass 4.0")
        check_kind("passes", passes, Passes, "Passes.ONE or Passes.TWO; import it from pullback.solvers")
        self.denoiser, self.scale, self.null, self.passes = denoiser, scale, null, passes
        self.process, self.prediction = denoiser.process, denoiser.prediction
        self.learns_variance = denoiser.learns_variance

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        cond, scale = self._asked(x, cond)
        null = self._null(cond)
        if self.passes is Passes.ONE:
            without, with_cond = self._in_one_call(self.denoiser, x, t, null, cond)
        else:
            without, with_cond = self.denoiser(x, t, null), self.denoiser(x, t, cond)
        return without + scale * (with_cond - without)

    def with_variance(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """The guided prediction, and behind it the variance as it is with `cond`: what DiT's and ADM's sampling takes.
        To extrapolate it too would leave the two bounds that it lies between.
        """
        cond, scale = self._asked(x, cond)
        null = self._null(cond)
        both = self.denoiser.with_variance
        if self.passes is Passes.ONE:
            without, with_cond = self._in_one_call(both, x, t, null, cond)
            without = without[:, : x.shape[1]]
        else:
            without, with_cond = self.denoiser(x, t, null), both(x, t, cond)
        prediction, variance = with_cond.split(x.shape[1], 1)
        return torch.cat([without + scale * (prediction - without), variance], 1)

    def _asked(self, x: Tensor, cond: Any) -> tuple[Any, Any]:
        """(conditioning, scale in a shape that broadcasts)."""
        scale = self.scale
        if isinstance(cond, Guided):
            cond, scale = cond
        if isinstance(scale, Tensor) and scale.ndim == 1:  # by itself (B,) would broadcast over the last axis
            if len(scale) not in (1, len(x)):
                raise ValueError(
                    f"scale: got shape {tuple(scale.shape)}, expected () or ({len(x)},), one for each sample; for one "
                    "a step pass cond=Guided(cond, PerStep(scales))"
                )
            scale = per_sample(scale.to(x), x)
        elif isinstance(scale, Tensor) and scale.ndim:
            scale = scale.to(x)
        return cond, scale

    def around(self, denoiser: Model) -> "ClassifierFree":
        """The same guidance of another model."""
        return ClassifierFree(denoiser, self.scale, self.null, self.passes)

    def parameters(self) -> Iterator[Tensor]:
        yield from self.denoiser.parameters()
        if isinstance(self.scale, Tensor):
            yield self.scale

    def networks(self) -> Iterator[nn.Module]:
        yield from self.denoiser.networks()

    def check_times(self, times: Tensor) -> None:
        self.denoiser.check_times(times)

    def _null(self, cond: Any) -> Any:
        """`null` with the batch of `cond`, where the two are nested alike."""
        mine, form = tree_flatten(self.null)
        theirs, other = tree_flatten(cond)
        if form != other:
            return self.null
        return tree_unflatten([_expanded(a, b) for a, b in zip(mine, theirs, strict=True)], form)

    @staticmethod
    def _in_one_call(
        model: Callable[[Tensor, Tensor, Any], Tensor], x: Tensor, t: Tensor, null: Any, cond: Any
    ) -> tuple[Tensor, Tensor]:
        mine, form = tree_flatten(null)
        theirs, other = tree_flatten(cond)
        if form != other:
            raise ValueError(
                f"Passes.ONE: got null with {_nesting(null)} beside cond with {_nesting(cond)}, expected the two "
                "nested alike; give null= what cond has, or use Passes.TWO"
            )
        mine, theirs = ([_for_batch(v, len(x)) for v in leaves] for leaves in (mine, theirs))
        for a, b in zip(mine, theirs, strict=True):
            if not all(isinstance(v, Tensor) and v.ndim and len(v) == len(x) for v in (a, b)):
                raise ValueError(
                    f"Passes.ONE: got null {described(a)} beside cond {described(b)}, expected two tensors with a "
                    f"batch of {len(x)}; give null=, expand cond to the batch, or use Passes.TWO"
                )
        both = [torch.cat(pair) for pair in zip(mine, theirs, strict=True)]
        out = model(torch.cat([x, x]), torch.cat([t, t]), tree_unflatten(both, form))
        return out[: len(x)], out[len(x) :]


def _for_batch(value: Any, batch: int) -> Any:
    """A tensor (1, ...) as (B, ...)."""
    shared = isinstance(value, Tensor) and value.ndim and len(value) == 1
    return value.expand(batch, *value.shape[1:]) if shared else value


def _nesting(tree: Any) -> str:
    """What a tree is at its top: the keys of a dict, else a few words."""
    return str(list(tree)) if isinstance(tree, dict) else described(tree)


def _expanded(null: Any, cond: Any) -> Any:
    """One null for all samples as one for each of cond's."""
    if not (isinstance(null, Tensor) and isinstance(cond, Tensor)) or null.shape == cond.shape:
        return null
    if null.shape == cond.shape[1:] or null.shape == (1, *cond.shape[1:]):
        return null.expand(cond.shape)
    return null
