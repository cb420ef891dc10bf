"""Context: what a guide can ask for at one network call of a steered run."""

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ...adjoint import Checkpoint, PerStep, sample
from ...adjoint.cond import at_step
from ...solvers import DATA, DDIM, Model, Noise, Plan, Prediction
from ...solvers.broadcast import per_sample
from ...solvers.model import data_prediction
from ...solvers.prediction import conversion
from ...solvers.process import as_time
from ..loss import Loss, check_loss
from .step_law import Opened, log_transition

Vjp = Callable[[Tensor], Tensor]


class Through(enum.Enum):
    """What autograd sees of a steered run: nothing, the run with the guide's corrections held constant, or
    all of it (gradients of gradients: the memory of a plain graph over the whole run).
    """

    NOTHING = "nothing"
    STOPPED = "stopped"
    FULL = "full"


@dataclass
class Counter:
    """Model evaluations and vector-Jacobian products so far."""

    nfe: int = 0
    vjps: int = 0


@dataclass(frozen=True, eq=False)
class Setting:
    """What all steps of one run share. `memories` holds what guides keep from step to step."""

    model: Model
    plan: Plan
    cond: Any
    draws: Noise | None
    through: Through
    counter: Counter = field(default_factory=Counter)
    memories: dict[int, dict[str, Any]] = field(default_factory=dict)


@dataclass(eq=False)
class Context:
    """One network call: step k of the plan at time t, from state x_t, with its data prediction D(x_t).

    Attributes:
        step, steps: k and N;  attempt: how often the step has been repeated;  first: whether the call is at
            the step's start.
        time: t, a float64 tensor, () or (B,);  next_time: the step's end.
        x: x_t (B, ...);  live: D with its graph to x where one was asked for.
        opened: the step's program and registers, for `transition`;  index, want: which call of the plan it
            is, and its prediction.
    """

    setting: Setting
    step: int
    attempt: int
    first: bool
    time: Tensor
    x: Tensor
    live: Tensor
    opened: Opened
    index: int
    want: Prediction
    drawn: int = 0
    loss: Tensor | None = None

    @property
    def steps(self) -> int:
        """N."""
        return self.setting.plan.steps

    @property
    def data(self) -> Tensor:
        """D(x_t), without a graph unless the run is differentiated through its guide."""
        return self.live if self.setting.through is Through.FULL else self.live.detach()

    @property
    def next_time(self) -> Tensor:
        """The time at the step's end."""
        return as_time(self.setting.plan.times[self.step + 1])

    @cached_property
    def alpha(self) -> Tensor:
        """alpha(t), shaped to broadcast over x."""
        return self.spread(self.setting.plan.process.alpha(self.time))

    @cached_property
    def sigma(self) -> Tensor:
        """sigma(t), shaped to broadcast over x."""
        return self.spread(self.setting.plan.process.sigma(self.time))

    @cached_property
    def next_alpha(self) -> Tensor:
        """alpha at the step's end."""
        return self.spread(self.setting.plan.process.alpha(self.next_time))

    @cached_property
    def next_sigma(self) -> Tensor:
        """sigma at the step's end."""
        return self.spread(self.setting.plan.process.sigma(self.next_time))

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
        _, b = conversion(DATA, self.want, self.setting.plan.process, self.time)
        return self.opened.response(self.index, self.spread(b) + self.opened.flat)

    @cached_property
    def prior_variance(self) -> Tensor:
        """r_t^2 = sigma^2/(alpha^2 + sigma^2): Var[x_0 | x_t] for data of unit variance (PiGDM's choice)."""
        return self.sigma.square() / (self.alpha.square() + self.sigma.square())

    def spread(self, level: Tensor) -> Tensor:
        """A number or one per sample, shaped to broadcast over x."""
        return per_sample(level.to(self.x), self.x)

    # gradients
    # ------------------------------------------------------------------------------------------------------

    def gradient(self, loss: Loss, at: Tensor) -> tuple[Tensor, Tensor]:
        """(loss (B,), its gradient) at `at` (B, ...): no network call, no VJP of the network."""
        with torch.enable_grad():
            point = at if at.requires_grad else at.detach().requires_grad_()
            value = loss(point)
            check_loss(value, len(at))
            found = torch.autograd.grad(
                value.sum(), point, create_graph=self.setting.through is Through.FULL
            )[0]
        return (value, found) if self.setting.through is Through.FULL else (value.detach(), found)

    def vjp(self, cotangent: Tensor) -> Tensor:
        """(dD/dx_t)^T cotangent, one VJP through the network's forward pass that the step makes anyway."""
        return self._pulled(self.live, cotangent, 1)

    def lookahead(self, k: int) -> tuple[Tensor, Vjp]:
        """(prediction of x_0, its pullback to x_t) by k network calls: k - 1 DDIM steps on the plan's
        remaining times, then D.

        k = 0 is D with the identity for its Jacobian, k = 1 is D. The first call is the step's own; the
        pullback costs k VJPs and, from k = 3 on, k - 2 replays; memory does not grow with k but by one state
        (`Checkpoint`). More steps than the plan has left are not taken.
        """
        if k < 0:
            raise ValueError(f"lookahead: got k={k}, expected k >= 0")
        nodes = self._nodes(k)
        if k < 2 or len(nodes) < 3:
            return self.data, ((lambda g: g) if k == 0 else self.vjp)
        s, plan = self.setting, self.setting.plan
        times = torch.stack([self.time, *(as_time(plan.times[i]) for i in nodes[1:-1])])
        graph = self.live.requires_grad
        with torch.set_grad_enabled(graph):
            alpha, sigma = (
                self.spread(plan.process.alpha(times[1])),
                self.spread(plan.process.sigma(times[1])),
            )
            ratio = sigma / self.sigma
            x = ratio * self.x + (alpha - self.alpha * ratio) * self.live
            replays = len(times) - 2
            if replays:
                cond = tree_map_only(PerStep, lambda leaf: PerStep(leaf.values[nodes[1:-2]]), s.cond)
                x = sample(
                    s.model,
                    DDIM().plan(plan.process, times[1:]),
                    x,
                    cond=cond,
                    gradient=Checkpoint() if graph else None,
                )
            out = data_prediction(s.model, x, times[-1], at_step(s.cond, nodes[-2]))
        s.counter.nfe += replays + 1

        def pull(cotangent: Tensor) -> Tensor:
            s.counter.nfe += replays
            return self._pulled(out, cotangent, replays + 2)

        return out if s.through is Through.FULL else out.detach(), pull

    def _nodes(self, k: int) -> list[int]:
        """Indices of k + 1 nodes from this step to the end, evenly in their count."""
        left = self.steps - self.step
        count = min(k, left)
        return [self.step + round(left * j / max(count, 1)) for j in range(count + 1)]

    def _pulled(self, out: Tensor, cotangent: Tensor, vjps: int) -> Tensor:
        self._needs_graph()
        self.setting.counter.vjps += vjps
        full = self.setting.through is Through.FULL
        found = torch.autograd.grad(
            out, self.x, cotangent, retain_graph=True, create_graph=full, allow_unused=True
        )[0]
        return torch.zeros_like(self.x) if found is None else found

    def _needs_graph(self) -> None:
        if not self.live.requires_grad:
            raise ValueError(
                "vjp: got a network call without a graph, expected one; set `differentiates = True` on the "
                "guide (or return True from `graph` at this step)"
            )

    # randomness
    # -----------------------------------------------------------------------------------------------------

    def draw(self, like: Tensor | None = None) -> Tensor:
        """Standard normal noise like x (or `like`) from the guide's own stream, addressed by step, attempt
        and order of drawing.
        """
        if self.setting.draws is None:
            raise ValueError(
                "draws: got None, expected a source for this guide's randomness; pass draws=Addressed(seed, "
                "stream=1)"
            )
        slot = self.step << 40 | self.attempt << 24 | self.drawn
        self.drawn += 1
        return self.setting.draws(slot, (self.x if like is None else like).detach())

    def renoise(self, x: Tensor, s: Tensor | float, t: Tensor | float) -> Tensor:
        """A draw of x_t given x_s, t the noisier time: (alpha_t/alpha_s) x + sqrt(sigma_t^2 -
        (alpha_t/alpha_s)^2 sigma_s^2) xi.
        """
        p = self.setting.plan.process
        ratio = p.alpha(t) / p.alpha(s)
        variance = p.sigma(t).square() - (ratio * p.sigma(s)).square()
        if bool((variance < -1e-12).any()):
            raise ValueError(
                f"renoise: got s={float(as_time(s).max()):.6g} to t={float(as_time(t).min()):.6g}, expected "
                "a noisier t; swap them"
            )
        return self.spread(ratio) * x + self.spread(variance.clamp(min=0).sqrt()) * self.draw()

    # the step's law, and what is kept
    # -------------------------------------------------------------------------------

    def transition(self, guided: bool = True) -> tuple[Tensor, Tensor]:
        """(mean, std) of the plan's step from here, with the predictions as the guide left them or as the
        network gave them.
        """
        return self.opened.transition(guided)

    def log_transition(self, x: Tensor, guided: bool = True) -> Tensor:
        """log density (B,) of arriving at x, (B, ...). Raises ValueError for a step without noise."""
        return log_transition(x, *self.transition(guided))

    def memory(self, guide: object) -> dict[str, Any]:
        """What `guide` keeps from step to step of this run: empty at the start, returned with the result."""
        return self.setting.memories.setdefault(id(guide), {})

    def report(self, loss: Tensor) -> None:
        """Note a loss (B,) for the result's record; what several guides report at one call is added."""
        self.loss = loss.detach() if self.loss is None else self.loss + loss.detach()
