"""L-BFGS for a batch of independent problems: every sample has its own history and its own line search."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .sample_optimiser import SampleOptimiser

ARMIJO, CURVATURE = 1e-4, 0.9  # Nocedal and Wright 2006, eq. 3.7: c1, c2


@dataclass(frozen=True, eq=False)
class _Line:
    """What a search knows of the line x + a p at a = 0: loss (B,), gradient (B, d), slope f' = p . gradient."""

    x: Tensor
    direction: Tensor
    loss: Tensor
    grad: Tensor
    slope: Tensor


class SampleLBFGS(SampleOptimiser):
    """L-BFGS with a strong Wolfe line search, sample by sample: torch's couples batch mates through one inner product.

    Two-loop recursion over the last `history` pairs (Nocedal and Wright 2006, algorithm 7.4) and a bracketing
    search for

        f(x + a p) <= f + c1 a f',   |f'(x + a p)| <= c2 |f'|,   c1 = 1e-4, c2 = 0.9

    with secant steps kept in the middle of the bracket. The first trial step is 1, without history lr
    min(1, 1/|g|_1), as torch's. A sample whose search fails stays where it is and forgets its history; the
    others do not notice. A sample stays for good once it is `done`: it has `converged`,

        max |g| <= tolerance_grad   or   f - f' <= max(tolerance_change, eps) max(1, |f|) in a step of both conditions,

    or its search along the steepest descent found nothing lower. When all are done `step` evaluates nothing.

    Args:
        variables: tensors (B, ...) with the batch first.
        lr: first step.  history: pairs kept.  searches: most evaluations of a line search.

    The closure of `step` returns the losses (B,) and sets the gradients of their sum. Cost: at least one
    evaluation a step, as many as the slowest sample's search needs.
    """

    called = "lbfgs()"

    def __init__(
        self,
        variables: list[Tensor],
        lr: float = 1.0,
        history: int = 10,
        searches: int = 20,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
    ) -> None:
        if history < 1 or searches < 1 or not tolerance_grad >= 0 or not tolerance_change >= 0:
            raise ValueError(
                f"lbfgs: got history={history}, searches={searches}, tolerance_grad={tolerance_grad}, "
                f"tolerance_change={tolerance_change}, expected at least 1, 1, 0 and 0"
            )
        super().__init__(variables, lr)
        self.tolerance_grad, self.tolerance_change = tolerance_grad, tolerance_change
        self.lr, self.history, self.searches = lr, history, searches
        # s, y (B, d), the changes of x and of the gradient, and 1/(s.y) (B,), 0 where a pair does not count
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        self.last: tuple[Tensor, Tensor] | None = None  # loss and gradient where the last search ended

    def step(self, closure: Callable[[], Any]) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One direction and its line search; returns the losses (B,) at its start."""
        x = self.read()
        loss, grad = self.last if self.last is not None else self._at(x, closure)
        self.settle(grad.abs().amax(1) <= self.tolerance_grad)
        fresh = self._has_no_history(loss)
        line = self._line(x, loss, grad)
        first = self.lr * (1 / grad.abs().sum(1).clamp(min=torch.finfo(grad.dtype).tiny)).clamp(max=1)
        size = torch.where(fresh, first, 1.0)
        size, after, new, wolfe = self._search(line, size, closure)
        moved = size[:, None] * line.direction
        self._remember(moved, new - grad)
        least = max(self.tolerance_change, torch.finfo(loss.dtype).eps) * loss.abs().clamp(min=1)
        still = loss - after <= least
        self.settle(wolfe & still | (new.abs().amax(1) <= self.tolerance_grad))
        self.done = self.done | fresh & still  # nothing lower, even along the steepest descent
        self.write(x + moved)
        self.last = (after, new)
        return loss

    def _has_no_history(self, loss: Tensor) -> Tensor:
        """Where no pair counts: the direction there is that of the steepest descent."""
        none = torch.ones_like(loss, dtype=torch.bool)
        for *_, rho in self.pairs:
            none = none & (rho == 0)
        return none

    def _line(self, x: Tensor, loss: Tensor, grad: Tensor) -> _Line:
        """Along the quasi-Newton direction; where that does not descend, along the steepest descent."""
        direction = self._direction(grad)
        slope = (direction * grad).sum(1)
        uphill = slope >= 0
        direction = torch.where(uphill[:, None], -grad, direction)
        slope = torch.where(uphill, -grad.square().sum(1), slope)
        return _Line(x, direction, loss, grad, slope)

    def _direction(self, grad: Tensor) -> Tensor:
        """-H grad, H the inverse Hessian that the pairs imply: the two loops of algorithm 7.4."""
        q, shares = grad.clone(), []
        for s, y, rho in reversed(self.pairs):
            share = rho * (s * q).sum(1)
            q = q - share[:, None] * y
            shares.append(share)
        gamma = torch.ones_like(grad[:, 0])
        for s, y, rho in self.pairs:  # the newest pair that counts, sample by sample
            scale = (s * y).sum(1) / y.square().sum(1).clamp(min=torch.finfo(y.dtype).tiny)
            gamma = torch.where(rho > 0, scale, gamma)
        q = gamma[:, None] * q
        for (s, y, rho), share in zip(self.pairs, reversed(shares), strict=True):
            q = q + (share - rho * (y * q).sum(1))[:, None] * s
        return -q

    def _search(self, line: _Line, size: Tensor, closure: Callable[[], Any]) -> tuple[Tensor, ...]:
        """Step sizes (B,), 0 where none was found, the losses and gradients there, and where both conditions hold."""
        low, high = torch.zeros_like(size), torch.full_like(size, torch.inf)  # a bracket of the minimum
        low_slope, high_slope = line.slope.clone(), torch.full_like(size, torch.nan)
        found, best_loss, best_grad = torch.zeros_like(size), line.loss.clone(), line.grad.clone()
        going = (line.slope < 0) & ~self.done
        wolfe = torch.zeros_like(going)
        for _ in range(self.searches):
            if not bool(going.any()):
                break
            value, new = self._at(line.x + torch.where(going, size, found)[:, None] * line.direction, closure)
            slope = (new * line.direction).sum(1)
            enough = value <= line.loss + ARMIJO * size * line.slope
            # the longest step seen that lowers the loss enough: what is left if the search runs out
            keep = going & enough & (value <= best_loss)
            found, best_loss = torch.where(keep, size, found), torch.where(keep, value, best_loss)
            best_grad = torch.where(keep[:, None], new, best_grad)
            good = enough & (slope.abs() <= CURVATURE * line.slope.abs())
            past = ~enough | (slope > 0)  # the minimum lies before this step, else beyond it
            high = torch.where(going & past, size, high)
            high_slope = torch.where(going & past, slope, high_slope)
            low = torch.where(going & ~past, size, low)
            low_slope = torch.where(going & ~past, slope, low_slope)
            wolfe = wolfe | going & good
            going = going & ~good
            share = low_slope / (low_slope - high_slope)  # where the secant of the slopes is zero
            share = torch.where(share.isfinite(), share, 0.5).clamp(0.1, 0.9)
            size = torch.where(going, torch.where(high.isinf(), 2 * size, low + share * (high - low)), size)
        return found, best_loss, best_grad, wolfe

    def _remember(self, s: Tensor, y: Tensor) -> None:
        """Keep a pair; one of no curvature does not count, and a sample that is stuck forgets all it had."""
        curvature, least = (s * y).sum(1), 1e-10 * y.square().sum(1).clamp(min=torch.finfo(y.dtype).tiny)
        rho = torch.where(curvature > least, 1 / curvature, 0.0)
        stuck = (s == 0).all(1)
        former = [(a, b, torch.where(stuck, 0.0, r)) for a, b, r in self.pairs]
        self.pairs = [*former, (s, y, rho)][-self.history :]

    def _at(self, flat: Tensor, closure: Callable[[], Any]) -> tuple[Tensor, Tensor]:
        """Losses (B,) and gradients (B, d) at `flat` (B, d), which the variables are set to."""
        self.write(flat)
        loss = closure()
        grads = [torch.zeros_like(v) if v.grad is None else v.grad for v in self.variables]
        return loss, torch.cat([g.flatten(1) for g in grads], 1)


def lbfgs(
    lr: float = 1.0,
    history: int = 10,
    searches: int = 20,
    tolerance_grad: float = 1e-7,
    tolerance_change: float = 1e-9,
) -> Callable[[list[Tensor]], torch.optim.Optimizer]:
    """Per-sample L-BFGS with strong Wolfe line search for `optimise`, which ends when every sample is done."""
    return lambda variables: SampleLBFGS(variables, lr, history, searches, tolerance_grad, tolerance_change)
