"""Lookahead guidance: the knob between DPS and optimising the whole rollout."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ...adjoint import Auto, Gradient, Input
from ...solvers import DDIM, Model, Plan
from ...solvers.broadcast import per_sample
from ...solvers.process import as_time
from ...solvers.wanted import Count, Whole
from ..loss import Loss
from .context import Context
from .guide import Guide
from .step_size import Bayes, Damped, StepSize


@dataclass(frozen=True, eq=False)
class Lookahead(Guide):
    """x_s <- x_s - policy(grad_{x_t} L(x0hat)), x0hat by k network calls from x_t.

    k = 0 leaves the Jacobian out (FlowChef), 1 is DPS, N the gradient of the rollout. Early on k = 1 may be
    worse than k = 0; k = 4 is close to the rollout's.

    Args:
        loss: L, in nats for the default policy, Bayes' weight kept from overshooting.
        agree: where given, k is a start: it is doubled, sample by sample, until the gradients by k and by 2k
            have that cosine, `most` is reached or the plan's steps are used up; the last one serves.
        gradient: the strategy that differentiates the run, of the k - 2 calls between the first and the last: from
            k = 3 on there is something to choose.

    Source: Blasingame and Liu 2025, "Greed is Good" (posterior guidance as the greedy case of end-to-end
    guidance). Cost: k calls, k VJPs and k - 2 replays a step, the memory of `Checkpoint`.
    """

    loss: Loss
    k: Whole = 4
    policy: StepSize = Damped(Bayes())
    agree: float | None = None
    most: Count = 32
    gradient: Gradient = Auto()

    def check(self, denoiser: Model, plan: Plan, x: Tensor) -> None:
        check_ahead(self.gradient, plan, self.k if self.agree is None else self.most)

    def graph(self, step: int, steps: int) -> bool:
        return self.k > 0 or self.agree is not None

    def pulled(self, ctx: Context, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """(loss, its gradient at x_t, its gradient at the prediction) by a lookahead of k."""
        ahead, pull = ctx.lookahead(k, self.gradient)
        value, at_data = ctx.gradient(self.loss, ahead)
        return value, pull(at_data), at_data

    def state(self, ctx: Context, x: Tensor) -> Tensor:
        value, slope, at_data = self.pulled(ctx, self.k)
        if self.agree is not None:
            # the gradient of every sample is taken for any one that still needs it: networks run in batches
            k, going = max(self.k, 1), torch.ones_like(value, dtype=torch.bool)
            while bool(going.any()) and k < min(self.most, ctx.steps - ctx.step):
                k = 2 * k
                finer, new, new_at_data = self.pulled(ctx, k)
                close = cosine_similarity(slope.flatten(1), new.flatten(1)) >= self.agree
                value = torch.where(going, finer, value)
                slope = torch.where(per_sample(going, x), new, slope)
                at_data = torch.where(per_sample(going, x), new_at_data, at_data)
                going = going & ~close
        ctx.report(value)
        return x - self.policy(ctx, slope, value, at_data)


def check_ahead(gradient: Gradient, plan: Plan, k: int) -> None:
    """Raise ValueError where `gradient` cannot carry a gradient back to x over k calls along `plan`'s times."""
    if min(k, plan.steps) > 2:
        gradient.check(DDIM().along(plan.process, as_time(plan.times)), [Input.X])
