"""Linear operators with closed forms for their adjoint, pseudo-inverse and regularised solves; named as
deepinv names them.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from ...solvers.checked import CheckedFields
from ...solvers.notebook import Shown
from ...solvers.wanted import RealNumbers


@dataclass(frozen=True)
class GaussianNoise(CheckedFields):
    """n ~ N(0, sigma^2 I) on the measurement."""

    sigma: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < float("inf"):
            raise ValueError(
                f"sigma: got {self.sigma}, expected a finite standard deviation >= 0, in the units of y"
            )


class Operator(CheckedFields, ABC):
    """y = A(x) + sigma n: `A` maps (B, ...) to (B, ...), sample by sample."""

    noise_model: GaussianNoise = GaussianNoise()

    @abstractmethod
    def A(self, x: Tensor) -> Tensor:
        """The measurement without noise."""


class Linear(Operator):
    """A linear operator with the closed forms that projections and posterior guidance need."""

    @abstractmethod
    def A_adjoint(self, y: Tensor) -> Tensor:
        """A^T y: <A x, y> = <x, A^T y>."""

    @abstractmethod
    def solve(self, r: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """(a A A^T + b I)^-1 r with a, b shaped to broadcast over r; where a A A^T + b I is singular its
        pseudo-inverse.
        """

    def A_dagger(self, y: Tensor) -> Tensor:
        """A^+ y = A^T (A A^T)^+ y."""
        one = y.new_ones(len(y), *(1,) * (y.ndim - 1))
        return self.A_adjoint(self.solve(y, one, 0 * one))


def _inverse(a: Tensor, values: Tensor, b: Tensor) -> Tensor:
    """1/(a values + b) for eigenvalues of A A^T; 0 where b = 0 and an eigenvalue is zero to round-off."""
    floor = 64 * values.shape[-1] * torch.finfo(values.dtype).eps * values.abs().max()
    keep = (b > 0) | (values > floor)
    return torch.where(keep, 1 / torch.where(keep, a * values + b, 1.0), 0.0)


@dataclass(frozen=True, eq=False, repr=False)
class Matrix(Shown, Linear):
    """y = A x for a dense A (m, d); samples (B, *event) with prod(event) = d, measurements (B, m)."""

    matrix: Tensor
    event: tuple[int, ...] | None = None
    noise_model: GaussianNoise = GaussianNoise()

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2 or (
            self.event is not None and torch.Size(self.event).numel() != self.matrix.shape[1]
        ):
            raise ValueError(
                f"Matrix: got matrix {tuple(self.matrix.shape)} and event {self.event}, expected (m, d) with "
                "d = prod(event); pass event= for samples of more than one axis"
            )

    def _spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues and eigenvectors of A A^T; those of one version of A are kept, without a graph."""
        a = self.matrix
        # a graph serves one backward pass, and tensors of inference mode serve none
        if (
            a.is_inference()
            or torch.is_inference_mode_enabled()
            or (a.requires_grad and torch.is_grad_enabled())
        ):
            return self._decomposed()
        version = (a._version, a.data_ptr(), a.dtype, a.device)  # what in-place changes and `.data =` change
        kept = vars(self).get("_kept")
        if kept is None or kept[0] != version:
            with torch.no_grad():
                kept = (version, self._decomposed())
            vars(self)["_kept"] = kept
        return kept[1]

    def _decomposed(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(self.matrix @ self.matrix.mT)
        return values.clamp(min=0.0), vectors

    def A(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.to(x).mT

    def A_adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.matrix.to(y)).reshape(len(y), *(self.event or (-1,)))

    def solve(self, r: Tensor, a: Tensor, b: Tensor) -> Tensor:
        values, vectors = (v.to(r) for v in self._spectrum())
        return ((r @ vectors) * _inverse(a, values, b)) @ vectors.mT


@dataclass(frozen=True, eq=False, repr=False)
class Mask(Shown, Linear):
    """y = mask x, element by element: inpainting with mask 0 or 1 (other weights are legal). Mask (*event) or
    broadcastable.
    """

    mask: RealNumbers
    noise_model: GaussianNoise = GaussianNoise()

    def A(self, x: Tensor) -> Tensor:
        return x * self.mask.to(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return y * self.mask.to(y)

    def solve(self, r: Tensor, a: Tensor, b: Tensor) -> Tensor:
        square = self.mask.to(r).square()
        return r * _inverse(a, square, b)


@dataclass(frozen=True, eq=False, repr=False)
class Blur(Shown, Linear):
    """Circular convolution of images (B, C, H, W) with a kernel (h, w), its centre at (h//2, w//2)."""

    kernel: Tensor
    noise_model: GaussianNoise = GaussianNoise()

    def __post_init__(self) -> None:
        if self.kernel.ndim != 2:
            raise ValueError(f"Blur: got a kernel of shape {tuple(self.kernel.shape)}, expected (h, w)")

    def _response(self, x: Tensor) -> Tensor:
        """The kernel's transfer function: a circular convolution multiplies the Fourier transform by it."""
        if x.ndim != 4 or any(k > n for k, n in zip(self.kernel.shape, x.shape[-2:], strict=True)):
            raise ValueError(
                f"Blur: got samples {tuple(x.shape)}, expected (B, C, H, W) no smaller than the kernel "
                f"{tuple(self.kernel.shape)}"
            )
        field = torch.zeros(x.shape[-2:], dtype=x.dtype, device=x.device)
        h, w = self.kernel.shape
        field[:h, :w] = self.kernel.to(x)
        return torch.fft.rfft2(field.roll((-(h // 2), -(w // 2)), dims=(0, 1)))

    def _filtered(self, x: Tensor, response: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x) * response, s=x.shape[-2:])

    def A(self, x: Tensor) -> Tensor:
        return self._filtered(x, self._response(x))

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self._filtered(y, self._response(y).conj())

    def solve(self, r: Tensor, a: Tensor, b: Tensor) -> Tensor:
        power = self._response(r).abs().square()
        return self._filtered(r, _inverse(a, power, b))


@dataclass(frozen=True, eq=False)
class Downsample(Linear):
    """Means over blocks of factor x factor pixels of images (B, C, H, W): A A^T = I / factor^2."""

    factor: int
    noise_model: GaussianNoise = GaussianNoise()

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ValueError(f"Downsample: got factor={self.factor}, expected at least 1")

    def A(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[-1] % self.factor or x.shape[-2] % self.factor:
            raise ValueError(
                f"Downsample: got samples {tuple(x.shape)}, expected (B, C, H, W) with H and W multiples of "
                f"{self.factor}"
            )
        return avg_pool2d(x, self.factor)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return interpolate(y, scale_factor=float(self.factor), mode="nearest") / self.factor**2

    def solve(self, r: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return r / (a / self.factor**2 + b)
