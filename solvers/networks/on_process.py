"""OnProcess: a model of one process, asked on another at equal lambda."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..broadcast import per_sample
from ..kinds import check_kind
from ..model import Model
from ..prediction import DATA, NOISE, Prediction, V
from ..process import Process, as_time


class OnProcess(Model):
    """`model`, trained on its own process A, as a model of x_t on `process` B: another scale and another time.

    At equal lambda = log(alpha/sigma) the two states differ by a factor alone, and say the same of x_0 and eps:

        D_B(x, t) = D_A(c x, s),  lambda_A(s) = lambda_B(t),  c = alpha_A(s)/alpha_B(t) = sigma_A(s)/sigma_B(t)

    so a network can be sampled along any path, by plans that are made for that path; on equal lambdas a plan gives the
    same x/alpha on either. A DATA or NOISE model stays one, any other becomes one of V, on `process`. Exact, and so is
    its gradient in x, conditioning and weights; times and factors are taken in float64.

    Args:
        model: of any prediction.
        process: that plans are made for.

    Raises:
        ValueError: before a run, where a call has a lambda that the model's own process does not reach: VP() ends at
            sigma/alpha = 152, EDM() at 80.

    Source: the scale and time of Karras et al. 2022, arXiv 2206.00364, are free; a change of scheduler after training
    in Lipman et al. 2024, arXiv 2412.06264. Cost: none beside the model's.
    """

    def __init__(self, model: Model, process: Process) -> None:
        check_kind("model", model, Model, Model.WANTED)
        check_kind(
            "process", process, Process, "a Process such as RectifiedFlow(); pass the one to sample on"
        )
        self.model, self.process = model, process

    @property
    def prediction(self) -> Prediction:  # type: ignore[override]
        return self.model.prediction if self.model.prediction in (DATA, NOISE) else V

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        own, *maps = self._maps(t)
        c, on_state, on_out = (per_sample(value.to(x), x) for value in maps)
        state = c * x
        return on_state * state + on_out * self.model(state, own.to(t), cond)

    def _maps(self, t: Tensor) -> tuple[Tensor, ...]:
        """(s, c, weight of the state c x, weight of the model's output) at times t, float64."""
        have, want, theirs = self.model.prediction, self.prediction, self.model.process
        own = theirs.time(self.process.lam(t)).clamp(theirs.t_min, theirs.t_max)
        alpha, sigma = theirs.alpha(own), theirs.sigma(own)
        # alpha_A/alpha_B and sigma_A/sigma_B at once: either may be 0/0
        c = torch.hypot(alpha, sigma) / torch.hypot(self.process.alpha(t), self.process.sigma(t))
        if have in (DATA, NOISE):  # as they are, at alpha = 0 and sigma = 0 too
            return own, c, torch.zeros_like(c), torch.ones_like(c)
        # state = alpha D + sigma E, out = a D + b E, wanted p D + q E of the other process
        (a, b), (p, q) = have.row(theirs, own), want.row(self.process, as_time(t))
        det = alpha * b - sigma * a
        return own, c, (p * b - q * a) / det, (alpha * q - sigma * p) / det

    def check_times(self, times: Tensor) -> None:
        theirs, lam = self.model.process, self.process.lam(times)
        reach = theirs.lam(theirs.t_max), theirs.lam(theirs.t_min)
        slack = 1e-6  # of lambda: what rounding an end's time makes of it
        self._refuse(
            (lam < reach[0] - slack) | (lam > reach[1] + slack),
            times,
            f"{float(reach[0]):.4g} to {float(reach[1]):.4g}, the reach of {theirs}, which the model is of",
        )
        maps = torch.stack(torch.broadcast_tensors(*self._maps(times)))
        self._refuse(
            ~maps.isfinite().all(0),
            times,
            f"one at which {self.model.prediction.name} determines {self.prediction.name}",
        )
        self.model.check_times(maps[0])

    def _refuse(self, bad: Tensor, times: Tensor, expected: str) -> None:
        if bool(bad.any()):
            t = float(times[bad].flatten()[0])
            raise ValueError(
                f"OnProcess: got a network call at t={t:.6g} of {self.process}, where lambda is "
                f"{float(self.process.lam(t)):.4g}, expected {expected}; begin and end the grid there"
            )

    def around(self, model: Model) -> "OnProcess":
        """The same of another model."""
        return OnProcess(model, self.process)

    def parameters(self) -> Iterator[Tensor]:
        return self.model.parameters()

    def networks(self) -> Iterator[nn.Module]:
        return self.model.networks()
