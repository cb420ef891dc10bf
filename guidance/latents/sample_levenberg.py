"""Levenberg and Marquardt for a batch of independent problems: every sample has its own trust region and space."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...adjoint import CallJVP, ForwardMode
from ...solvers.checked import checked
from ...solvers.wanted import Count, NonNegative, Positive
from .krylov import Krylov
from .local_model import LocalModel
from .sample_optimiser import SampleOptimiser

ENOUGH, POOR, GOOD = (
    1e-4,
    0.25,
    0.75,
)  # shares of the predicted reduction: a step is taken, its region shrinks, grows


class SampleLevenberg(SampleOptimiser):
    """See `levenberg`.

    Attributes:
        pulled, pushed: VJPs and JVPs of the run so far.
    """

    called = "levenberg()"

    def __init__(
        self,
        variables: list[Tensor],
        reach: float,
        products: int,
        forcing: float,
        trials: int,
        tolerance_grad: float,
        tolerance_change: float,
        by: CallJVP,
    ) -> None:
        super().__init__(variables)
        self.products, self.forcing, self.trials, self.by = products, forcing, trials, by
        self.tolerance_grad, self.tolerance_change = tolerance_grad, tolerance_change
        size = sum(value[0].numel() for value in variables)
        self.radius = variables[0].new_full((len(variables[0]),), reach * size**0.5)
        self.here: LocalModel | None = None  # where the last step ended, if that is where it looked last
        self.pulled = self.pushed = 0

    def step(self, closure: Callable[[Tensor], LocalModel]) -> Any:  # type: ignore[override]
        """One step; returns the losses (B,) at its start. `closure`: the objective around variables (B, d)."""
        x = self.read()
        here = closure(x) if self.here is None else self.here
        loss, gradient, going = here.value, here.gradient, ~self.done
        self.pulled += 1
        self.settle(gradient.abs().amax(1) <= self.tolerance_grad)
        going = ~self.done
        if not bool(going.any()):
            return loss
        space = Krylov(here.product, gradient, self.radius, going, self.forcing, self.products)
        self.pulled, self.pushed = self.pulled + space.products, self.pushed + space.products
        moved, after = torch.zeros_like(x), loss
        for _ in range(self.trials):
            p, less = space.step(self.radius)
            # a reduction that round-off hides
            self.settle(going & (less <= 10 * torch.finfo(loss.dtype).eps * loss.abs()))
            going = going & ~self.done
            if not bool(going.any()):
                break
            self.here = closure(x + torch.where(going[:, None], p, moved))
            value = self.here.value
            gain = torch.where(value.isfinite(), (loss - value) / less, -torch.inf)
            taken = going & (gain >= ENOUGH)
            moved, after = torch.where(taken[:, None], p, moved), torch.where(taken, value, after)
            self._resize(going, gain, p, loss, value, (gradient * p).sum(1))
            going = going & ~taken
        least = max(self.tolerance_change, torch.finfo(loss.dtype).eps) * loss.abs().clamp(min=1)
        self.settle((moved != 0).any(1) & (loss - after <= least))
        if bool(going.any()):  # looked at where some did not go
            self.here = None
        self.done = self.done | going  # nothing lower, even close by
        self.write(x + moved)
        return loss

    def _resize(
        self, where: Tensor, gain: Tensor, p: Tensor, loss: Tensor, value: Tensor, slope: Tensor
    ) -> None:
        """Shrink the regions of poor steps to where a parabola along the step has its minimum, grow good ones."""
        length = p.norm(dim=1)
        share = -slope / (2 * (value - loss - slope))
        share = torch.where(share.isfinite(), share, 0.1).clamp(0.1, 0.5)
        poor, full = where & (gain < POOR), where & (gain > GOOD) & (length > 0.9 * self.radius)
        self.radius = torch.where(poor, share * length, torch.where(full, 2 * self.radius, self.radius))


@checked
def levenberg(
    reach: Positive = 0.3,
    products: Count = 5,
    forcing: NonNegative = 0.1,
    trials: Count = 8,
    tolerance_grad: NonNegative = 1e-7,
    tolerance_change: NonNegative = 1e-9,
    by: CallJVP = ForwardMode(),
) -> Callable[[list[Tensor]], torch.optim.Optimizer]:
    """Levenberg and Marquardt's method for `optimise`, by products with the sampler's Jacobian J, both ways.

        p = -(A + mu I)^-1 g,   A = J^T H J + prior'',   g = J^T dL/dx + prior',   mu >= 0 such that |p| <= radius

    H is J_r^T J_r / std^2 of a `LeastSquares` loss with residuals r, of another loss its Hessian at the sample. The
    system is solved by Lanczos' form of conjugate gradients (`Krylov`), which keeps A on the space that it has seen: a
    step that is refused is made again in a smaller region for one run of the sampler and no product. A sample has its
    own radius, damping, coefficients and acceptance; what its batch mates do costs it time and changes nothing.

    A step is taken where it lowers the objective by 1e-4 of what was predicted; the radius doubles where it was reached
    and 0.75 of that came true, and shrinks to 0.1 to 0.5 of the step where 0.25 did not. A sample ends as under
    `lbfgs()`; also where what is predicted is below round-off.

    Args:
        reach: first radius, in root mean square a number: latents are of size 1.
        products: most products with A a step;  forcing: fewer where |(A + mu I) p + g| <= forcing |g|.
        trials: most steps tried in one space.
        tolerance_grad, tolerance_change: as of `lbfgs()`.
        by: how a JVP of the network is taken.

    For x, noise, controls and conditioning with `cond_rows`; not for variables that samples share. Cost a step: a run
    for each trial (one, as a rule), a VJP, and a JVP and a VJP for each product. Source: Marquardt 1963, J. SIAM 11;
    Nocedal and Wright 2006, algorithm 4.1 and section 10.3.
    """
    return lambda variables: SampleLevenberg(
        variables, reach, products, forcing, trials, tolerance_grad, tolerance_change, by
    )
