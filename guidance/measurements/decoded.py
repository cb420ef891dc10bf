"""A measurement of the picture that latents stand for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...solvers.kinds import described
from ...solvers.wanted import Count, Wanted
from .measurement import Measurement
from .operators import Operator


@dataclass(frozen=True, eq=False)
class Decoded(Operator):
    """y = A(D(x)): what A sees of the picture D(x) of latents x.

    Not linear, whatever A is: a `Measurement` of it is for guides on a loss (DPS, MPGD, LGD, FreeDoM, TFG, ...) and for
    `smc`; those that need A^T or A^+ (PiGDM, TMPD, DDNM, MCG, DiffPIR) refuse it.

    Args:
        decode: D, latents (B, ...) to pictures (B, ...), sample by sample: `found.decode` of a diffusers pipeline.
        physics: A, of pictures in the range that D has ([-1, 1] but for overshoot); its noise is the measurement's.
        at_once: how many pictures D makes in one call, each call a checkpoint; None: all in one, activations kept.

    Cost: a call of D, and its VJP where there is a gradient. With `at_once` one more call of D for a gradient, and the
    activations of that many pictures in place of all B.
    """

    decode: Annotated[
        Callable[[Tensor], Tensor], Wanted("a function from latents to pictures; pass found.decode")
    ]
    physics: Any
    at_once: Count | None = None

    def __post_init__(self) -> None:
        if isinstance(self.physics, Measurement):
            raise TypeError(
                "physics: got a Measurement, expected its operator: y is measured of the picture; write "
                "Measurement(Decoded(decode, measurement.physics), measurement.y, measurement.noise_std)"
            )
        if isinstance(self.physics, type) or not hasattr(self.physics, "A"):
            raise TypeError(
                f"physics: got {described(self.physics)}, expected an operator on pictures, an object with `A`; pass "
                "one such as Mask(keep), or NonLinear(function)"
            )

    @property
    def noise_model(self) -> Any:  # type: ignore[override]
        """A's."""
        return self.physics.noise_model

    def A(self, x: Tensor) -> Tensor:
        return self.physics.A(self.pictures(x))

    def pictures(self, x: Tensor) -> Tensor:
        """D(x), so many at once; as wide as x where D works in half precision."""
        if self.at_once is None:
            found = self.decode(x)
        elif torch.is_grad_enabled() and x.requires_grad:
            parts = x.split(self.at_once)
            found = torch.cat([checkpoint(self.decode, part, use_reentrant=False) for part in parts])
        else:
            found = torch.cat([self.decode(part) for part in x.split(self.at_once)])
        return found.to(torch.promote_types(found.dtype, x.dtype))
