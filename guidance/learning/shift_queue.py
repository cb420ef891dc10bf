"""ShiftQueue: many runs of a plan, each one step behind the last, there and back again."""

from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ...solvers import Addressed, Model, Plan
from ...solvers.broadcast import per_sample
from ...solvers.checked import CheckedFields
from ...solvers.networks.shared import check_shared
from ...solvers.per_step import PerStep
from ..loss import Loss
from .implicit import ImplicitSampler, Moved, check_gradients_reached, losses_of, own_gradient
from .single_steps import StepCoefficients, steps_of
from .steady import check_steady, drawing_nothing


@dataclass(frozen=True, eq=False)
class ShiftQueue(CheckedFields, ImplicitSampler):
    """N runs of a plan of N steps on their way forwards, run m at step m, and N on their way back. A turn takes

        x_{m+1} = A_m x_m + B_m F(x_m, t_m; theta) + s_m xi        of every run forwards, in one network call,
        a_m = (d x_{m+1}/d x_m)^T a_{m+1}                          of every run backwards, in one call and one VJP,

    with x_m as it was and a_N the gradient of the mean loss. Each run on its way back gives its part of step m of the
    parameters' gradient: all together are a whole gradient every turn, of states and cotangents that were made under
    parameters up to 2 N updates old. While these stand still it is the gradient of unrolling, summed over runs.

    Args:
        denoiser: its parameters are moved. plan: with one network call and one combination of it and x a step (DDIM,
            DDPM, FlowEuler, EulerMaruyama ...).
        starts: of turn k, noise (B, ...) at the plan's first time.
        cond: as for `sample`, of all turns; tensors of B rows go with the rows: one for all samples has another first
            axis than B, or none.
        noise: of stochastic plans; sample b of turn k has the address k B + b.

    Cost: 2 N B calls and N B VJPs a turn, as of one unrolled batch under `Checkpoint`, in two calls and one VJP one
    after another in place of 2 N and N. Memory: N (N + 1) states of B samples, activations of one call of N B. Source:
    arXiv 2402.05468, algorithm 3, whose Gamma solves the adjoint of the last law anew each turn; the queue of adjoints
    is ours.
    """

    denoiser: Model
    plan: Plan
    starts: Callable[[int], Tensor]
    cond: Any = None
    noise: Addressed = Addressed(0)

    def start(self, parameters: list[Tensor], loss: Loss) -> Callable[[int], Moved]:
        if any(isinstance(leaf, PerStep) for leaf in tree_leaves(self.cond)):
            raise ValueError("cond: got PerStep conditioning, expected one for all steps; pass tensors")
        check_steady("ShiftQueue", self.denoiser)
        return _Turning(self, parameters, loss, steps_of(self.plan, self.denoiser))


@dataclass(eq=False)
class _Run:
    """One run: turn it began at, states it has passed, and on its way back the cotangent."""

    turn: int
    states: list[Tensor]
    cotangent: Tensor | None = None


@dataclass(eq=False)
class _Turning:
    """The queue as it stands."""

    queue: ShiftQueue
    parameters: list[Tensor]
    loss: Loss
    steps: StepCoefficients
    forwards: deque[_Run] = field(default_factory=deque)  # youngest first
    backwards: deque[_Run] = field(default_factory=deque)
    arrived: bool = False  # whether a run has reached its loss
    reached: bool = False  # whether a whole gradient has been looked at

    def __call__(self, k: int) -> Moved:
        n = len(self.steps.slots)
        begun = self.queue.starts(k).detach()
        if not k:
            check_shared(
                "ShiftQueue", "a call has rows of several steps", self.queue.denoiser, begun, self.queue.cond
            )
        self.forwards.appendleft(_Run(k, [begun]))
        whole = len(self.backwards) == n
        there, back = len(self.forwards), len(self.backwards)
        gradient = self._pull() if self.backwards else None
        batch = len(self.forwards[0].states[0])
        self._push()
        while self.backwards and not self.backwards[-1].states:
            self.backwards.pop()
        losses = None
        if len(self.forwards[-1].states) == n + 1:
            losses = self._turned(self.forwards.pop())
        return Moved(losses, gradient if whole else None, (there + back) * batch, back * batch)

    def _push(self) -> None:
        """Every run forwards by a step."""
        runs = list(self.forwards)
        with torch.no_grad():
            x = torch.cat([run.states[-1] for run in runs])
            at = [len(run.states) - 1 for run in runs]
            with nullcontext() if at != [0] else drawing_nothing("ShiftQueue", x.device):  # the first call
                moved = self._stepped(x, at).split(len(runs[0].states[-1]))
        for run, state in zip(runs, moved, strict=True):
            step = len(run.states) - 1
            if self.steps.slots[step] >= 0:
                batch = len(state)
                samples = range(run.turn * batch, (run.turn + 1) * batch)
                source = Addressed(
                    self.queue.noise.seed, samples, self.queue.noise.stream, self.queue.noise.on_cpu
                )
                state = state + float(self.steps.s[step]) * source(self.steps.slots[step], state)
            run.states.append(state)

    def _turned(self, run: _Run) -> Tensor:
        """The losses of a run that has arrived, which sets out on its way back."""
        with torch.enable_grad():
            x = run.states.pop().requires_grad_()
            losses = losses_of(self.loss, x)
            if not self.arrived:
                self._check_loss(losses)
            run.cotangent = torch.autograd.grad(losses.mean(), x)[0]
        self.arrived = True
        self.backwards.appendleft(run)
        return losses.detach()

    def _check_loss(self, losses: Tensor) -> None:
        found = own_gradient(losses, self.parameters)
        if place := [k for k, grad in enumerate(found) if grad is not None]:
            raise ValueError(
                f"ShiftQueue: got a loss that depends on parameters[{place[0]}] by itself, expected one of the samples "
                "alone: the queue pulls it back through the run and nowhere else; leave that term out, or unroll"
            )

    def _pull(self) -> list[Tensor]:
        """Every run backwards by a step; what they give to the parameters, summed."""
        runs = list(self.backwards)
        with torch.enable_grad():
            x = torch.cat([run.states.pop() for run in runs]).requires_grad_()
            out = self._stepped(x, [len(run.states) for run in runs])
            pulled = torch.cat([run.cotangent for run in runs if run.cotangent is not None])
            first, *rest = torch.autograd.grad(out, [x, *self.parameters], pulled, allow_unused=True)
        assert first is not None
        if not self.reached and len(runs) == len(self.steps.slots):  # every step at once
            check_gradients_reached("denoiser", self.parameters, None, rest)
            self.reached = True
        for run, cotangent in zip(runs, first.split(len(runs[0].cotangent)), strict=True):  # type: ignore[arg-type]
            run.cotangent = cotangent
        return [torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, rest, strict=True)]

    def _stepped(self, x: Tensor, at: list[int]) -> Tensor:
        """Runs at steps `at`, one behind another in x, moved by their steps without noise, in one network call."""
        batch = len(x) // len(at)
        index = torch.tensor(at).repeat_interleave(batch)
        t, a, b = (values[index].to(x) for values in (self.steps.t, self.steps.a, self.steps.b))

        def rows(leaf: Any) -> Any:
            of_samples = isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == batch
            return leaf.repeat(len(at), *(1,) * (leaf.ndim - 1)) if of_samples else leaf

        predicted = self.queue.denoiser(x, t, tree_map(rows, self.queue.cond))
        return per_sample(a, x) * x + per_sample(b, x) * predicted
