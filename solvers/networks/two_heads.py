"""TwoHeads: a velocity and a score of one two-sided interpolant, put together as a plan's noise asks for."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..broadcast import per_sample
from ..calling import Calling, Positional
from ..drift import Drift
from ..instructions import Evaluate
from ..interpolant import Interpolant
from ..kinds import check_kind, described
from ..model import Denoiser, Model
from ..plan import Plan
from ..prediction import FLOW, NOISE, SCORE, Prediction
from ..process import Process


class TwoHeads(Model):
    """The velocity u, and with it E[z given x_t] (NOISE) or the score (SCORE), of an `Interpolant`.

    By itself it is a model of u, for plans without noise. For one with noise `on(plan)` is the model of u -+ eps score
    with the plan's own eps(t), so that drift and noise cannot disagree:

        plan = StochasticFlow(eps).plan(interpolant, grid)
        sample(model.on(plan), plan, x1)

    Args:
        network: network(x, t) or network(x, t, cond) -> (u, second), each in x's shape. Two networks: lambda x, t:
            (velocity(x, t), denoiser(x, t)).
        process: the interpolant that both are of.
        second: NOISE for E[z given x_t], which stays finite where gamma = 0 (the paper's denoiser eta_z), or SCORE.
        dtype, call, label, modules: as for `Denoiser`.

    Source: Albergo, Boffi and Vanden-Eijnden 2023, arXiv 2303.08797, section 2.
    """

    prediction = FLOW

    def __init__(
        self,
        network: Callable[..., Any],
        process: Interpolant,
        second: Prediction = NOISE,
        dtype: torch.dtype | None = None,
        *,
        call: Calling = Positional(),
        label: Callable[[Tensor, Process], Tensor] | None = None,
        modules: Iterable[Any] = (),
    ) -> None:
        check_kind("process", process, Interpolant, "an Interpolant(alpha, beta, gamma)")
        if second not in (NOISE, SCORE):
            raise ValueError(f"second: got {second}, expected NOISE, for E[z given x_t], or SCORE")
        # of a pair a Denoiser takes the first
        self.velocity = Denoiser(network, process, FLOW, dtype, call=call, label=label, modules=modules)
        self.process, self.second = process, second

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return self.velocity(x, t, cond)

    def on(self, plan: Plan) -> Model:
        """The model of what `plan` asks for.

        Raises:
            ValueError: a plan of another process, one that asks for another prediction, and one with noise at a node
                where gamma = 0, which the score there would have to be infinite to take back.
        """
        calls = [op for op in plan.instructions if isinstance(op, Evaluate)]
        wants = {op.want for op in calls}
        if wants == {FLOW}:
            return self
        want = wants.pop() if len(wants) == 1 else FLOW
        if plan.process != self.process or not isinstance(want.row, Drift):
            raise ValueError(
                f"TwoHeads: got {plan.name} on {plan.process}, expected a flow method or StochasticFlow on "
                f"{self.process}; compile the plan with model.process"
            )
        model = self.velocity
        assert isinstance(self.process, Interpolant)
        share = _Share(want.row, self.process, self.second, model.call, model.label)
        share.check(torch.tensor([op.t for op in calls], dtype=torch.float64))
        return Denoiser(model.network, self.process, want, model.dtype, call=share, modules=model.modules)

    def parameters(self) -> Iterator[Tensor]:
        return self.velocity.parameters()

    def networks(self) -> Iterator[nn.Module]:
        return self.velocity.networks()

    def check_times(self, times: Tensor) -> None:
        self.velocity.check_times(times)


@dataclass(frozen=True)
class _Share:
    """A calling that puts the pair together: u + side eps score."""

    drift: Drift
    process: Interpolant
    second: Prediction
    inner: Calling
    label: Callable[[Tensor, Process], Tensor] | None

    def __call__(self, network: Callable[..., Any], x: Tensor, t: Tensor, cond: Any) -> Tensor:
        out = self.inner(network, x, t if self.label is None else self.label(t, self.process), cond)
        if not isinstance(out, tuple | list) or len(out) != 2:
            raise ValueError(
                f"TwoHeads: got {described(out)} of the network, expected a pair (u, {self.second.name}); pass "
                "lambda x, t: (velocity(x, t), denoiser(x, t))"
            )
        u, second = out
        return u.to(t.dtype) + per_sample(self.weight(t).to(t), x) * second.to(t.dtype)

    def weight(self, t: Tensor) -> Tensor:
        """On the second head: side eps, over -gamma where it is E[z]; 0 where eps is."""
        eps = self.drift.side * self.drift.eps(self.process, t)
        return eps if self.second == SCORE else torch.where(eps == 0, eps, -eps / self.process.gamma(t))

    def check(self, times: Tensor) -> None:
        """Raise ValueError where the weight is not finite."""
        bad = ~self.weight(times).isfinite()
        if bool(bad.any()):
            t = times[bad].flatten()[0]
            raise ValueError(
                f"TwoHeads: got noise of strength {float(self.drift.eps(self.process, t)):.3g} at t={float(t):.6g}, "
                "where gamma = 0, expected none there; take eps(t) that vanishes with gamma, or a grid inside"
            )
