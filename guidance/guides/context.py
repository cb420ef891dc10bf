"""Context: what a guide can ask for at one network call of a steered run."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ...adjoint import Auto, Gradient, PerStep, sample
from ...solvers import DATA, DDIM, Plan
from ...solvers.broadcast import per_sample
from ...solvers.model import data_prediction
from ...solvers.per_step import at_step
from ...solvers.prediction import conversion
from ...solvers.process import Process, as_time
from ..grad_mode import check_no_inference
from ..loss import Loss, check_graph, check_loss
from .bookkeeping import CallRecord, Through
from .step_law import log_normal

Vjp = Callable[[Tensor], Tensor]


@dataclass(eq=False)
class Context:
    """One network call of a steered run, and all that a guide may ask for there.

    It is made in step k of N at time t, from the state x_t = alpha x_0 + sigma eps; the step goes from t to s.
    A level is shaped to broadcast over x: (B, 1, ...), or (1, 1, ...) where all samples share a grid.

    | | | |
    |---|---|---|
    | `step`, `steps`, `attempt` | k, N, and how often step k was taken before (time travel) | numbers |
    | `time`, `next_time` | t and s, float64 | () or (B,) |
    | `x` | x_t; carries a graph where the guide differentiates | (B, ...) |
    | `data` | D(x_t), the prediction of x_0 | (B, ...) |
    | `alpha`, `sigma` | at t | level |
    | `next_alpha`, `next_sigma` | at s | level |
    | `tweedie` | sigma^2/alpha: E[x_0 given x_t, y] = D + (sigma^2/alpha) grad log p(y given x_t) | level |
    | `gain` | dx_s/dD | level |
    | `prior_variance` | r_t^2 = sigma^2/(alpha^2 + sigma^2) | level |
    | `spread(value)` | a number, or one per sample, shaped to broadcast | level |
    | `gradient(loss, at)` | loss and its gradient at a point; no network | (B,), (B, ...) |
    | `vjp(c)` | (dD/dx_t)^T c; one VJP | (B, ...) |
    | `lookahead(k)` | prediction of x_0 by k calls, and its pullback | (B, ...), function |
    | `data_after(x)` | D(x) of a state at s; one call | (B, ...) |
    | `draw()`, `draw(like)` | N(0, I) of the guide's own stream | as x, as `like` |
    | `renoise(x, s, t)` | a draw of x_t given x_s | (B, ...) |
    | `transition(guided)` | mean and std of x_s given x_t | (B, ...), (B, 1, ...) |
    | `log_transition(x, guided)` | log density of x_s = x | (B,) |
    | `memory(self)` | a dict that lasts for the run | dict |
    | `report(loss)` | adds (B,) to the result's record | |
    """

    step: int
    attempt: int
    time: Tensor
    x: Tensor
    _record: CallRecord

    @property
    def steps(self) -> int:
        """N."""
        return self._plan.steps

    @property
    def data(self) -> Tensor:
        """D(x_t), without a graph unless the run is differentiated through its guide."""
        return self._record.live if self._full else self._record.live.detach()

    # the levels of noise, and what follows from them
    # -----------------------------------------------------------------------------------------------------

    @property
    def next_time(self) -> Tensor:
        """s, the time at the step's end."""
        return as_time(self._plan.times[self.step + 1])

    @cached_property
    def alpha(self) -> Tensor:
        """alpha(t)."""
        return self.spread(self._process.alpha(self.time))

    @cached_property
    def sigma(self) -> Tensor:
        """sigma(t)."""
        return self.spread(self._process.sigma(self.time))

    @cached_property
    def next_alpha(self) -> Tensor:
        """alpha(s)."""
        return self.spread(self._process.alpha(self.next_time))

    @cached_property
    def next_sigma(self) -> Tensor:
        """sigma(s)."""
        return self.spread(self._process.sigma(self.next_time))

    @cached_property
    def tweedie(self) -> Tensor:
        """sigma^2/alpha: D' = D + (sigma^2/alpha) grad_{x_t} log p(y | x_t) is E[x_0 | x_t, y] exactly; 0
        where alpha = 0, where x_t says nothing of x_0.
        """
        safe = torch.where(self.alpha > 0, self.alpha, torch.ones_like(self.alpha))
        return torch.where(self.alpha > 0, self.sigma.square() / safe, torch.zeros_like(safe))

    @cached_property
    def gain(self) -> Tensor:
        """dx_s/dD: how far the state after the step moves with this prediction, x_t held; alpha_s - alpha
        sigma_s/sigma for DDIM, about twice that for its SDE.
        """
        _, b = conversion(DATA, self._record.want, self._process, self.time)
        return self._record.law.response(self._record.index, self.spread(b))

    @cached_property
    def prior_variance(self) -> Tensor:
        """r_t^2 = sigma^2/(alpha^2 + sigma^2): Var[x_0 | x_t] for data of unit variance (PiGDM's choice)."""
        return self.sigma.square() / (self.alpha.square() + self.sigma.square())

    def spread(self, value: Tensor) -> Tensor:
        """A number or one per sample, () or (B,), shaped to broadcast over x."""
        return per_sample(value.to(self.x), self.x)

    # gradients and network calls
    # -----------------------------------------------------------------------------------------------------

    def gradient(self, loss: Loss, at: Tensor) -> tuple[Tensor, Tensor]:
        """(loss (B,), its gradient) at `at` (B, ...): no network call, no VJP of the network."""
        with torch.enable_grad():
            point = at if at.requires_grad else at.detach().requires_grad_()
            value = loss(point)
            check_loss(value, len(at))
            if not value.requires_grad:
                check_no_inference("guide")
            check_graph(value, "x", "choose among particles with smc or svdd")
            (slope,) = torch.autograd.grad(value.sum(), point, create_graph=self._full)
        return (value if self._full else value.detach()), slope

    def vjp(self, cotangent: Tensor) -> Tensor:
        """(dD/dx_t)^T cotangent, one VJP through the network's forward pass that the step makes anyway."""
        return self._pulled(self._record.live, cotangent, 1)

    def lookahead(self, k: int, gradient: Gradient = Auto()) -> tuple[Tensor, Vjp]:
        """(prediction of x_0, its pullback to x_t) by k network calls: k - 1 DDIM steps on the plan's
        remaining times, then D.

        k = 0 is D with the identity for its Jacobian, k = 1 is D. The first call is the step's own; the
        pullback costs k VJPs and, from k = 3 on, k - 2 replays; memory does not grow with k but by one state
        (`Checkpoint`). More steps than the plan has left are not taken.

        Args:
            gradient: the strategy that differentiates the run, of the k - 2 calls between the first and the last.
        """
        if k < 0:
            raise ValueError(f"lookahead: got k={k}, expected k >= 0")
        left = self.steps - self.step
        count = min(k, left)
        if count < 2:
            return self.data, (self.vjp if k else _identity)
        # the nodes of the plan where the calls are made, evenly in their number; the first call has been made
        nodes = [self.step + round(left * j / count) for j in range(count)]
        times = torch.stack([self.time, *(as_time(self._plan.times[i]) for i in nodes[1:])])
        between = count - 2  # calls that only lead on to the next state
        replays, vjps = 0, count
        s, graph = self._record.setting, self._record.live.requires_grad
        with torch.set_grad_enabled(graph):
            x = self._stepped(times[1])
            if between:
                onwards = DDIM().along(self._process, times[1:])
                forwards, backwards = gradient.cost(onwards)
                replays, vjps = forwards - between, backwards + 2
                x = sample(
                    s.model,
                    onwards,
                    x,
                    cond=tree_map_only(PerStep, lambda leaf: PerStep(leaf.values[nodes[1:-1]]), s.cond),
                    gradient=gradient if graph else None,
                )
            out = data_prediction(s.model, x, times[-1], at_step(s.cond, nodes[-1]))
        s.counter.nfe += between + 1

        def pull(cotangent: Tensor) -> Tensor:
            s.counter.nfe += replays
            return self._pulled(out, cotangent, vjps)

        return out if self._full else out.detach(), pull

    def data_after(self, x: Tensor) -> Tensor:
        """D(x, s) of a state x (B, ...) at the step's end, as the next step would find it: one network call."""
        s = self._record.setting
        s.counter.nfe += 1
        return data_prediction(s.model, x, self.next_time, at_step(s.cond, self.step + 1))

    # randomness
    # -----------------------------------------------------------------------------------------------------

    def draw(self, like: Tensor | None = None) -> Tensor:
        """Standard normal noise like x (or `like`) from the guide's own stream, addressed by step, attempt
        and order of drawing.
        """
        draws = self._record.setting.draws
        if draws is None:
            raise ValueError(
                "draws: got None, expected a source for this guide's randomness; pass draws=Addressed(seed, "
                "stream=1)"
            )
        slot = self.step << 40 | self.attempt << 24 | self._record.drawn
        self._record.drawn += 1
        return draws(slot, (self.x if like is None else like).detach())

    def renoise(self, x: Tensor, s: Tensor | float, t: Tensor | float) -> Tensor:
        """A draw of x_t given x_s, t the noisier time: (alpha_t/alpha_s) x + sqrt(sigma_t^2 -
        (alpha_t/alpha_s)^2 sigma_s^2) xi.
        """
        p = self._process
        ratio = p.alpha(t) / p.alpha(s)
        variance = p.sigma(t).square() - (ratio * p.sigma(s)).square()
        if bool((variance < -1e-12).any()):
            raise ValueError(
                f"renoise: got s={float(as_time(s).max()):.6g} to t={float(as_time(t).min()):.6g}, expected "
                "a noisier t; swap them"
            )
        return self.spread(ratio) * x + self.spread(variance.clamp(min=0).sqrt()) * self.draw()

    # the step's law, and what is kept
    # -----------------------------------------------------------------------------------------------------

    def transition(self, guided: bool = True) -> tuple[Tensor, Tensor]:
        """(mean (B, ...), std (B, 1, ...)) of the plan's step from here, with the predictions as the guide
        left them or as the network gave them.
        """
        return self._record.law.transition(guided)

    def log_transition(self, x: Tensor, guided: bool = True) -> Tensor:
        """log density (B,) of arriving at x, (B, ...). Raises ValueError for a step without noise."""
        return log_normal(x, *self.transition(guided))

    def memory(self, guide: object) -> dict[str, Any]:
        """What `guide` keeps from step to step of this run: empty at the start, returned with the result."""
        return self._record.setting.memories.setdefault(id(guide), {})

    def report(self, loss: Tensor) -> None:
        """Note a loss (B,) for the result's record; what several guides report at one call is added."""
        known = self._record.loss
        self._record.loss = loss.detach() if known is None else known + loss.detach()

    # the machine's own
    # -----------------------------------------------------------------------------------------------------

    @property
    def _plan(self) -> Plan:
        return self._record.setting.plan

    @property
    def _process(self) -> Process:
        return self._record.setting.plan.process

    @property
    def _full(self) -> bool:
        """Whether what guides compute must itself be differentiable."""
        return self._record.setting.through is Through.FULL

    def _stepped(self, time: Tensor) -> Tensor:
        """x at `time` by one step of DDIM from D(x_t), with its graph."""
        alpha, sigma = self.spread(self._process.alpha(time)), self.spread(self._process.sigma(time))
        ratio = sigma / self.sigma
        return ratio * self.x + (alpha - self.alpha * ratio) * self._record.live

    def _pulled(self, out: Tensor, cotangent: Tensor, vjps: int) -> Tensor:
        """(dout/dx_t)^T cotangent; zero where `out` does not depend on x_t."""
        if not self._record.live.requires_grad:
            check_no_inference("guide")
            raise ValueError(
                "vjp: got a network call without a graph, expected one; set `differentiates = True` on the "
                "guide (or return True from `graph` at this step)"
            )
        self._record.setting.counter.vjps += vjps
        (slope,) = torch.autograd.grad(
            out, self.x, cotangent, retain_graph=True, create_graph=self._full, allow_unused=True
        )
        return torch.zeros_like(self.x) if slope is None else slope


def _identity(cotangent: Tensor) -> Tensor:
    return cotangent
