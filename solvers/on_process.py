"""OnProcess: a model of one process, asked on another at equal lambda."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .broadcast import per_sample
from .kinds import check_kind
from .model import Model
from .prediction import DATA, NOISE, Prediction, V
from .process import Process, as_time


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

    Source: the change of variables of Karras et al. 2022, arXiv 2206.00364, section 4, and Lipman et al. 2024, arXiv
    2412.06264, section 4.6.2, at equal signal-to-noise. Cost: none beside the model's.
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
        own = self._own(t)
        (alpha, sigma), (a, s) = self._levels(self.process, t), self._levels(self.model.process, own)
        # alpha_A/alpha_B where alpha_B > 0, sigma_A/sigma_B where sigma_B > 0: here both at once
        c = torch.hypot(a, s) / torch.hypot(alpha, sigma)
        state = per_sample(c.to(x), x) * x
        out = self.model(state, own.to(t), cond)
        have, want = self.model.prediction, self.prediction
        if have == want:
            return out
        # v_B = -sigma_B D + alpha_B E from state = a D + s E and out = A D + B E
        (first, second), (p, q) = have.row(self.model.process, own), want.row(self.process, as_time(t))
        det = a * second - s * first
        on_state, on_out = (p * second - q * first) / det, (a * q - s * p) / det
        return per_sample(on_state.to(x), x) * state + per_sample(on_out.to(x), x) * out

    def _own(self, t: Tensor) -> Tensor:
        """The times of the model's process with the lambdas of t, float64, inside it."""
        own = self.model.process
        return own.time(self.process.lam(t)).clamp(own.t_min, own.t_max)

    @staticmethod
    def _levels(process: Process, t: Tensor) -> tuple[Tensor, Tensor]:
        return process.alpha(t), process.sigma(t)

    def check_times(self, times: Tensor) -> None:
        own = self.model.process
        lam, reach = self.process.lam(times), (own.lam(own.t_max), own.lam(own.t_min))
        slack = 1e-6  # of lambda: what rounding an end's time makes of it
        bad = (lam < reach[0] - slack) | (lam > reach[1] + slack)
        if bool(bad.any()):
            t = float(times[bad].flatten()[0])
            raise ValueError(
                f"OnProcess: got a network call at t={t:.6g} of {self.process}, where lambda is "
                f"{float(self.process.lam(t)):.4g}, expected {float(reach[0]):.4g} to {float(reach[1]):.4g}, the reach "
                f"of {own}, which the model is of; begin and end the grid there"
            )
        self.model.check_times(self._own(times))

    def around(self, model: Model) -> "OnProcess":
        """The same of another model."""
        return OnProcess(model, self.process)

    def parameters(self) -> Iterator[Tensor]:
        return self.model.parameters()

    def networks(self) -> Iterator[nn.Module]:
        return self.model.networks()
