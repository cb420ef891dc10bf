"""Processes: x_t = alpha(t) x_0 + sigma(t) eps, the clock every sampler runs on.

All functions take and return float64 tensors of any shape. `t` grows from data to noise. alpha = 0 and sigma
= 0 are legal end points; lambda is then -inf or +inf.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C._autograd import _top_saved_tensors_default_hooks
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor

from .checked import CheckedFields
from .cut_off import cut_off
from .kinds import described


def as_time(t: Tensor | float | Sequence[Any]) -> Tensor:
    """`t` as a float64 tensor: time arithmetic is never done in less."""
    return torch.as_tensor(t, dtype=torch.float64)


def as_numbers(t: Tensor) -> Any:
    """`t.tolist()`, inside torch.func too: there torch 2.8 and 2.9 refuse it, and 2.13 `numpy()` still."""
    if not is_functorch_wrapped_tensor(t):
        return t.tolist()
    with torch._C._DisableFuncTorch():  # which would wrap again what `tolist` looks at
        while is_functorch_wrapped_tensor(t):
            t = get_unwrapped(t)
        return t.tolist()


def as_table(name: str, values: Tensor | Sequence[Any], wanted: str) -> Tensor:
    """Numbers that a user gave as `name`: float64, detached, on the CPU. Raises TypeError where they are none."""
    unreal = isinstance(values, Tensor) and (values.is_complex() or values.is_meta)
    try:
        found = None if unreal else as_time(values)
    except (TypeError, ValueError, RuntimeError):
        found = None
    if found is None:
        raise TypeError(f"{name}: got {described(values)}, expected {wanted}")
    return found.detach().cpu()


class Process(CheckedFields, ABC):
    """x_t = alpha(t) x_0 + sigma(t) eps, with lambda(t) = log(alpha/sigma) strictly decreasing on [t_min, t_max]."""

    t_min: float
    t_max: float

    @abstractmethod
    def log_alpha(self, t: Tensor | float) -> Tensor:
        """log alpha(t); -inf where alpha = 0."""

    @abstractmethod
    def log_sigma(self, t: Tensor | float) -> Tensor:
        """log sigma(t); -inf where sigma = 0."""

    def alpha(self, t: Tensor | float) -> Tensor:
        """alpha(t), the factor on the data."""
        return self.log_alpha(t).exp()

    def sigma(self, t: Tensor | float) -> Tensor:
        """sigma(t), the factor on the noise."""
        return self.log_sigma(t).exp()

    def lam(self, t: Tensor | float) -> Tensor:
        """lambda(t) = log alpha - log sigma, half the log signal-to-noise ratio."""
        return self.log_alpha(t) - self.log_sigma(t)

    def time(self, lam: Tensor | float) -> Tensor:
        """The t with lambda(t) = lam: bisection to the last bit; subclasses give closed forms."""
        lam = as_time(lam)
        low, high = torch.full_like(lam, self.t_min), torch.full_like(lam, self.t_max)
        for _ in range(200):
            middle = (low + high) / 2
            noisier = self.lam(middle) > lam
            low, high = torch.where(noisier, middle, low), torch.where(noisier, high, middle)
        return (low + high) / 2

    def check_conversion(self, have: str, want: str) -> None:  # noqa: B027  (alpha and sigma say it all, as a rule)
        """Raise ValueError where alpha and sigma do not turn a prediction of one name into the other."""

    def d_alpha(self, t: Tensor | float) -> Tensor:
        """d alpha / dt."""
        return slope(self.alpha, t)

    def d_sigma(self, t: Tensor | float) -> Tensor:
        """d sigma / dt."""
        return slope(self.sigma, t)

    def f(self, t: Tensor | float) -> Tensor:
        """Drift of dx = f x dt + g dw: f = d log alpha / dt."""
        return self.d_alpha(t) / self.alpha(t)

    def g2(self, t: Tensor | float) -> Tensor:
        """Squared diffusion: g^2 = d sigma^2/dt - 2 f sigma^2."""
        return 2 * self.sigma(t) * (self.d_sigma(t) - self.f(t) * self.sigma(t))


def slope(fn: Callable[[Tensor], Tensor], t: Tensor | float) -> Tensor:
    """d fn/dt, of a function of each time by itself."""
    # by torch.func, which may stand inside a transform of the caller's: `requires_grad_` may not
    at = as_time(t).detach()
    if _top_saved_tensors_default_hooks(True) is None:
        return torch.func.grad(lambda at: fn(at).sum())(at)
    # inside a checkpoint or a region, whose hooks torch.func.grad refuses; slower, and nothing is saved
    return torch.func.jvp(fn, (at.clone(),), (torch.ones_like(at),))[1]  # of times that may be expanded


class _VariancePreserving(Process):
    """alpha^2 + sigma^2 = 1; a subclass gives log_alpha."""

    def log_sigma(self, t: Tensor | float) -> Tensor:
        return 0.5 * torch.log(-torch.expm1(2 * self.log_alpha(t)))

    @staticmethod
    def log_alpha_at(lam: Tensor | float) -> Tensor:
        """log alpha = -log(1 + e^(-2 lambda)) / 2, without overflow."""
        return -0.5 * torch.nn.functional.softplus(-2 * as_time(lam))


@dataclass(frozen=True)
class VP(_VariancePreserving):
    """Linear variance preserving: log alpha = -(beta_max - beta_min) t^2/4 - beta_min t/2, t in [0, 1].

    Source: Song et al. 2021, arXiv 2011.13456, eq. 32-33.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 0.0
    t_max: float = 1.0

    def log_alpha(self, t: Tensor | float) -> Tensor:
        t = as_time(t)
        return -(self.beta_max - self.beta_min) / 4 * t**2 - self.beta_min / 2 * t

    def time(self, lam: Tensor | float) -> Tensor:
        c = -2 * self.log_alpha_at(lam)
        slope = self.beta_max - self.beta_min
        # the root written without cancellation near t = 0
        return 2 * c / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * slope * c))


@dataclass(frozen=True)
class CosineVP(_VariancePreserving):
    """Cosine: alpha = cos(pi/2 (t + s)/(1 + s)) / cos(pi/2 s/(1 + s)), t in [0, 1]; alpha(1) = 0 exactly.

    Source: Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 17.
    """

    s: float = 0.008
    t_min: float = 0.0
    t_max: float = 1.0

    def log_alpha(self, t: Tensor | float) -> Tensor:
        # cos(pi/2 (t+s)/(1+s)) = sin(pi/2 (1-t)/(1+s)) keeps alpha exact near and at t = 1
        angle = math.pi / 2 * (1 - as_time(t)) / (1 + self.s)
        # log1p(cos ratio - 1) loses nothing that matters at t = 0; clamp the rounding above zero
        return cut_off(angle.sin().log() - math.log(math.sin(math.pi / 2 / (1 + self.s))), high=0.0)

    def time(self, lam: Tensor | float) -> Tensor:
        alpha = self.log_alpha_at(lam).exp() * math.sin(math.pi / 2 / (1 + self.s))
        return 1 - torch.asin(alpha.clamp(max=1.0)) * (1 + self.s) * 2 / math.pi


@dataclass(frozen=True)
class SubVP(Process):
    """Sub-VP: alpha as in `VP`, sigma = 1 - alpha^2. Source: arXiv 2011.13456, eq. 29."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 0.0
    t_max: float = 1.0

    def log_alpha(self, t: Tensor | float) -> Tensor:
        return VP(self.beta_min, self.beta_max).log_alpha(t)

    def log_sigma(self, t: Tensor | float) -> Tensor:
        return torch.log(-torch.expm1(2 * self.log_alpha(t)))


@dataclass(frozen=True)
class VE(Process):
    """Variance exploding: alpha = 1, sigma = sigma_min (sigma_max/sigma_min)^t, t in [0, 1]. arXiv
    2011.13456, eq. 31.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    t_min: float = 0.0
    t_max: float = 1.0

    def log_alpha(self, t: Tensor | float) -> Tensor:
        return torch.zeros_like(as_time(t))

    def log_sigma(self, t: Tensor | float) -> Tensor:
        return math.log(self.sigma_min) + as_time(t) * math.log(self.sigma_max / self.sigma_min)

    def time(self, lam: Tensor | float) -> Tensor:
        return (-as_time(lam) - math.log(self.sigma_min)) / math.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True)
class EDM(Process):
    """alpha = 1, sigma = t, t in [t_min, t_max]. Source: Karras et al. 2022, arXiv 2206.00364."""

    t_min: float = 0.0
    t_max: float = 80.0

    def log_alpha(self, t: Tensor | float) -> Tensor:
        return torch.zeros_like(as_time(t))

    def log_sigma(self, t: Tensor | float) -> Tensor:
        return as_time(t).log()

    def sigma(self, t: Tensor | float) -> Tensor:
        return as_time(t).clone()

    def d_alpha(self, t: Tensor | float) -> Tensor:
        return torch.zeros_like(as_time(t))

    def d_sigma(self, t: Tensor | float) -> Tensor:
        return torch.ones_like(as_time(t))

    def time(self, lam: Tensor | float) -> Tensor:
        return torch.exp(-as_time(lam))


@dataclass(frozen=True)
class RectifiedFlow(Process):
    """alpha = 1 - t, sigma = t, t in [0, 1]. Source: Liu et al. 2022, arXiv 2209.03003."""

    t_min: float = 0.0
    t_max: float = 1.0

    def log_alpha(self, t: Tensor | float) -> Tensor:
        return torch.log1p(-as_time(t))

    def log_sigma(self, t: Tensor | float) -> Tensor:
        return as_time(t).log()

    def alpha(self, t: Tensor | float) -> Tensor:
        return 1 - as_time(t)

    def sigma(self, t: Tensor | float) -> Tensor:
        return as_time(t).clone()

    def d_alpha(self, t: Tensor | float) -> Tensor:
        return -torch.ones_like(as_time(t))

    def d_sigma(self, t: Tensor | float) -> Tensor:
        return torch.ones_like(as_time(t))

    def time(self, lam: Tensor | float) -> Tensor:
        return torch.sigmoid(-as_time(lam))


def _form_of(table: Tensor) -> str:
    """What is not as a table of alpha_bar should be, else its shape."""
    shape = f"shape {tuple(table.shape)}"
    if table.ndim != 1 or len(table) < 2:
        return shape
    rising = torch.nonzero(~(table[1:] < table[:-1])).flatten()
    if len(rising):
        k = int(rising[0])
        return f"{shape} with {float(table[k]):g} at {k} and {float(table[k + 1]):g} at {k + 1}"
    return f"{shape} from {float(table[0]):g} to {float(table[-1]):g}"


class DiscreteVP(_VariancePreserving):
    """A table of alpha_bar: log alpha(t) interpolates log(alpha_bar)/2 linearly; t = -1 is clean data, t = T-1 the end.

    Args:
        alphas_cumprod: decreasing values in (0, 1), one per training step; a last value 0 (zero terminal SNR)
            is legal at its own index.
    """

    def __init__(self, alphas_cumprod: Tensor) -> None:
        wanted = "a tensor of numbers; pass the scheduler's alphas_cumprod"
        table = as_table("alphas_cumprod", alphas_cumprod, wanted)
        if (
            table.ndim != 1
            or len(table) < 2
            or not bool((table[1:] < table[:-1]).all())  # NaN compares as False
            or not table[0] < 1
            or table[-1] < 0
        ):
            raise ValueError(
                f"alphas_cumprod: got {_form_of(table)}, expected a strictly decreasing vector in "
                "[0, 1); pass the scheduler's alphas_cumprod, not its betas"
            )
        self.t_min, self.t_max = -1.0, float(len(table) - 1)
        self._nodes = torch.cat([torch.zeros(1, dtype=torch.float64), 0.5 * table.log()])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DiscreteVP) and torch.equal(self._nodes, other._nodes)

    def __hash__(self) -> int:
        return hash((len(self._nodes), float(self._nodes[1])))

    def __repr__(self) -> str:
        return f"DiscreteVP({len(self._nodes) - 1} steps)"

    def log_alpha(self, t: Tensor | float) -> Tensor:
        position = as_time(t) + 1
        nodes = self._nodes.to(position.device)
        cell = position.detach().floor().clamp(0, len(nodes) - 2).long()
        part = position - cell
        left, right = nodes[cell], nodes[cell + 1]
        # where the cell ends at alpha = 0, its start must not see that: 0 * -inf would be NaN
        ends = right.isinf()
        line = torch.lerp(left, torch.where(ends, left, right), part)
        return torch.where(ends & (part > 0), right, line)

    def time(self, lam: Tensor | float) -> Tensor:
        wanted = self.log_alpha_at(lam)
        nodes = self._nodes.to(wanted.device)
        cell = (torch.searchsorted(-nodes, -wanted) - 1).clamp(0, len(nodes) - 2)
        left, right = nodes[cell], nodes[cell + 1]
        return cell + (wanted - left) / (right - left) - 1


@dataclass(frozen=True)
class UserPair(Process):
    """Any pair of functions of a float64 tensor; lambda must decrease strictly on [t_min, t_max]."""

    alpha_fn: Callable[[Tensor], Tensor]
    sigma_fn: Callable[[Tensor], Tensor]
    t_min: float
    t_max: float

    def alpha(self, t: Tensor | float) -> Tensor:
        return self.alpha_fn(as_time(t))

    def sigma(self, t: Tensor | float) -> Tensor:
        return self.sigma_fn(as_time(t))

    def log_alpha(self, t: Tensor | float) -> Tensor:
        return self.alpha(t).log()

    def log_sigma(self, t: Tensor | float) -> Tensor:
        return self.sigma(t).log()
