"""Branching guidance: the posterior mean as a weighted mean over short rollouts."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ..adjoint import PerStep, sample
from ..solvers import DDIM, Model, Noise, Plan, as_time
from .context import Context
from .guide import Guide
from .measurement import Measurement
from .tmpd import conditioned


@dataclass(frozen=True, eq=False)
class Branching(Guide):
    """D' = sum_j w_j D'_j over `branches` draws x_j ~ p(x_s | x_t), D'_j = E[x_0|x_j, y] and w_j ~ p(y|x_j) as `TMPD` has them.

    Exact as branches grow where p(x_0|x_s) is Gaussian: far more modest than asking it at t, where several modes are open. s is
    the time with sigma/alpha = `level`, to be set near the spread within a mode; the draws are `steps` steps of DDIM(1), in
    even steps of lambda. Once sigma/alpha <= level it is TMPD. One mode per branch, sample by sample. This library's own;
    its ends are TMPD (branches = 0) and importance sampling (level -> 0). Cost: branches (steps + 1) network calls and
    branches m VJPs a call while above the level, then m VJPs; needs draws; constant memory.
    """

    measurement: Measurement
    branches: int = 8
    steps: int = 4
    level: float = 1.0
    differentiates = True

    def check(self, denoiser: Model, plan: Plan, x: Tensor) -> None:
        if self.branches < 1 or self.steps < 1 or not self.level > 0:
            raise ValueError(f"Branching: got branches={self.branches}, steps={self.steps}, level={self.level}, expected all > 0")
        self.measurement.check(x, "A_adjoint", noisy=True)

    def data(self, ctx: Context, data: Tensor) -> Tensor:
        m, process = self.measurement, ctx.setting.plan.process
        ctx.report(m(ctx.data))
        if ctx.time.ndim or float(ctx.sigma.max()) <= self.level * float(ctx.alpha.max()):
            return data + conditioned(ctx, m, m.residual(ctx.data))[0]
        low = max(float(process.lam(ctx.time)), -8.0)
        lam = torch.linspace(low, -torch.tensor(self.level).log().item(), self.steps + 1, dtype=torch.float64)
        times = process.time(lam)
        times[0] = ctx.time
        plan = DDIM(1.0).plan(process, times)
        cond = tree_map_only(PerStep, lambda leaf: leaf.values[ctx.step], ctx.setting.cond)
        means, logs = [], []
        for _ in range(self.branches):
            x = sample(ctx.setting.model, plan, ctx.x.detach(), cond=cond, noise=_Drawn(ctx), gradient=None)
            ctx.setting.counter.nfe += plan.nfe
            end = ctx.at(x, as_time(times[-1]))
            move, log_likelihood = conditioned(end, m, m.residual(end.data))
            means.append(end.data + move)
            logs.append(log_likelihood)
        weights = torch.stack(logs).softmax(0).reshape(self.branches, -1, *(1,) * (data.ndim - 1))
        return (weights * torch.stack(means)).sum(0)


class _Drawn(Noise):
    """A guide's draws as the noise of a rollout."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx

    def check(self, slots: int, like: Tensor) -> None: ...

    def __call__(self, slot: int, like: Tensor) -> Tensor:
        return self.ctx.draw()
