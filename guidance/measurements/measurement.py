"""Measurement: what was observed of the sample, y = A(x_0) + s_y n, and the algebra that guides need of it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from ...solvers import Noise
from ...solvers.broadcast import per_sample
from ...solvers.checked import CheckedFields
from ...solvers.kinds import check_kind, described, instance
from ...solvers.notebook import Shown
from ...solvers.wanted import Wanted


@dataclass(frozen=True, eq=False, repr=False)
class Measurement(Shown, CheckedFields):
    """y = A(x_0) + noise_std n, n ~ N(0, I).

    Args:
        physics: anything with `A(x)`; for linear guides also `A_adjoint(y)`, for those that project
            `A_dagger(y)`: the operators here, or a deepinv physics as it is.
        y: (B, ...), or (1, ...) for all samples, in the range of the samples (a noise of 0.05 in [-1, 1] is
            0.025 in [0, 1]).
        noise_std: s_y >= 0; default: `physics.noise_model.sigma`.

    Raises:
        ValueError: noise_std missing or out of range; y without a batch axis.
    """

    physics: Any
    WANTED: ClassVar[None] = None  # a guide says which
    y: Annotated[Tensor, Wanted("a tensor (B, ...) or (1, ...); torch.as_tensor(...)[None] makes one")]
    noise_std: float | Tensor | None = None

    def __post_init__(self) -> None:
        if isinstance(self.physics, type):
            raise TypeError(
                f"physics: got {described(self.physics)}, expected an instance of it; write {instance(self.physics)}"
            )
        if not hasattr(self.physics, "A"):
            raise ValueError(
                f"physics: got {type(self.physics).__name__} without `A`, expected an operator; pass one such as "
                "Mask(keep), Matrix(a) or a deepinv physics"
            )
        check_kind("y", self.y, Tensor, "a tensor (B, ...) or (1, ...); torch.as_tensor(...)[None] makes one")
        if self.y.ndim < 2:
            raise ValueError(
                f"y: got shape {tuple(self.y.shape)}, expected (B, ...) or (1, ...); add a batch axis"
            )
        std = self.noise_std
        if std is None:
            std = getattr(getattr(self.physics, "noise_model", None), "sigma", None)
            if std is None:
                raise ValueError(
                    "noise_std: got None and a physics without noise_model.sigma, expected s_y >= 0; pass "
                    "noise_std="
                )
        std = torch.as_tensor(std)
        if std.numel() != 1 or not bool(std.isfinite().all()) or float(std.detach()) < 0:
            raise ValueError(
                f"noise_std: got {std.tolist()}, expected one finite number >= 0, in the units of y"
            )
        object.__setattr__(self, "noise_std", std.reshape(()) if std.requires_grad else float(std))

    @classmethod
    def of(cls, physics: Any, x: Tensor, noise: Noise, noise_std: float | None = None) -> "Measurement":
        """A simulated measurement of samples x (B, ...), its noise drawn from slot 0 of `noise`."""
        clean = physics.A(x)
        std = cls(physics, clean, noise_std).std  # the physics' own where none is given
        return cls(physics, clean + std * noise(0, clean), std)

    def check(self, x: Tensor, *needs: str, noisy: bool = False) -> None:
        """Raise ValueError where the physics does not take x (B, ...), does not give y's shape, or lacks what
        is needed.
        """
        for name in needs:
            if not hasattr(self.physics, name):
                raise ValueError(
                    f"physics: got {type(self.physics).__name__} without `{name}`, expected a linear "
                    "operator that has it; use a guide on a loss (DPS, LGD, MPGD) for this one"
                )
        if noisy and not self.std > 0:
            raise ValueError(
                "noise_std: got 0, expected s_y > 0 for a guide in nats; pass the smallest noise you believe "
                "in"
            )
        try:
            with torch.no_grad():
                seen = self.physics.A(torch.zeros_like(x))
        except (RuntimeError, ValueError, IndexError) as error:
            raise ValueError(
                f"physics: {type(self.physics).__name__} does not take samples of shape {tuple(x.shape)}, "
                f"expected one that does ({error})"
            ) from error
        self._matches(seen, x)

    def _matches(self, seen: Tensor, x: Tensor) -> None:
        """Raise ValueError unless y has the shape of seen = A(x), or (1, ...)."""
        if self.y.shape[1:] != seen.shape[1:] or len(self.y) not in (1, len(seen)):
            raise ValueError(
                f"y: got shape {tuple(self.y.shape)}, expected {tuple(seen.shape)}, what the physics makes "
                f"of samples {tuple(x.shape)}, or (1, ...); measure with the same operator"
            )

    def repeated(self, count: int) -> "Measurement":
        """For `count` copies of every sample, one after the other: y's rows likewise, one for all samples kept."""
        return self if len(self.y) == 1 else replace(self, y=self.y.repeat_interleave(count, 0))

    @property
    def std(self) -> float | Tensor:
        """s_y; a tensor where it was given as one that requires grad."""
        assert self.noise_std is not None
        return self.noise_std

    @property
    def variance(self) -> float | Tensor:
        """s_y^2."""
        return self.std**2

    def residual(self, x: Tensor) -> Tensor:
        """y - A(x).

        Raises ValueError where y is not of A(x)'s shape, or (1, ...): what merely broadcasts is a mistake.
        """
        seen = self.physics.A(x)
        self._matches(seen, x)
        return self.y.to(x) - seen

    def __call__(self, x: Tensor) -> Tensor:
        """|y - A(x)|^2, (B,)."""
        return self.residual(x).flatten(1).square().sum(1)

    def nats(self, x: Tensor) -> Tensor:
        """-log p(y | x) up to a constant: |y - A(x)|^2 / (2 s_y^2), (B,)."""
        return self(x) / (2 * self.variance)

    def rows(self, x: Tensor) -> list[int]:
        """The measured numbers, of a linear physics, that say anything of samples like x (B, ...): not those a
        mask hides, whose rows of A are zero in every sample. By number among y's entries.
        """
        # a row that leaves two samples without any pattern at exactly zero is zero
        count = torch.arange(1, x[0].numel() + 1, dtype=torch.float64, device=x.device)
        without_pattern = [1 + (count * root).frac() for root in (2**0.5, 3**0.5)]
        with torch.no_grad():
            seen = [self.physics.A(p.to(x).reshape(x.shape[1:]).expand(x.shape)) for p in without_pattern]
        said = torch.stack(seen).flatten(2).ne(0).any(0).any(0)
        return said.nonzero()[:, 0].tolist()

    def solve(self, r: Tensor, scale: Tensor | float, noise: Tensor | float) -> Tensor:
        """(scale A A^T + noise I)^-1 r, scale and noise (variances) numbers or (B,): in closed form where the
        operator has `solve`, else by conjugate gradients.
        """
        a, b = (per_sample(torch.as_tensor(v).to(r), r) for v in (scale, noise))
        if hasattr(self.physics, "solve"):
            return self.physics.solve(r, a, b)
        return conjugate_gradients(lambda v: a * self.physics.A(self.physics.A_adjoint(v)) + b * v, r)

    def pull(self, r: Tensor, like: Tensor) -> Tensor:
        """A^T r in the samples' shape."""
        return self.physics.A_adjoint(r).reshape(like.shape)


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor], r: Tensor, steps: int = 500, tolerance: float = 1e-12
) -> Tensor:
    """apply^-1 r for a symmetric positive definite linear map, every sample by itself; a converged sample is left
    alone.

    `tolerance` is on |residual|/|r|, for float64; in float32, whose round-off stops it earlier, 1e-6.
    """

    def dot(u: Tensor, v: Tensor) -> Tensor:
        return per_sample((u * v).flatten(1).sum(1), r)

    x, residual, direction = torch.zeros_like(r), r, r
    old = dot(residual, residual)
    goal = (tolerance**2 if r.dtype == torch.float64 else 1e-12) * old
    for _ in range(min(steps, 10 * r[0].numel())):
        going = old > goal
        if not bool(going.any()):
            break
        image = apply(direction)
        curvature = dot(direction, image)
        step = torch.where(going & (curvature > 0), old / torch.where(curvature > 0, curvature, 1.0), 0.0)
        x, residual = x + step * direction, residual - step * image
        new = dot(residual, residual)
        conjugate = residual + new / torch.where(old > 0, old, 1.0) * direction
        direction, old = torch.where(going, conjugate, direction), torch.where(going, new, old)
    return x
