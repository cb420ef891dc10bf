"""Ancestral sampling around any single-step solver: further down than the step goes, and up again by noise."""

import math
from dataclasses import dataclass, replace

from ...compiler import Builder, Method
from ...instructions import Apply, Combine, Evaluate, Instruction, reads, writes
from ...process import as_time
from ..tau import Eta, Tau, mean_square


@dataclass(frozen=True)
class Ancestral(Method):
    """`base` from lambda_s to lambda_d = lambda_t + tau^2 h, then x_t = (alpha_t/alpha_d) x_d + sd xi,

        sd = sigma_t sqrt(1 - e^{-2 (lambda_d - lambda_t)}),  h = lambda_t - lambda_s

    With eta this is the split of k-diffusion's get_ancestral_step, sigma_down = rho_t sqrt(1 - eta^2 (1 - e^{-2h})),
    sigma_up = rho_t eta sqrt(1 - e^{-2h}), rho = sigma/alpha:

        Ancestral(DDIM())                                Euler ancestral: DDIM(eta)
        Ancestral(DPMSolverPPSingle(2))                  dpmpp_2s_ancestral
        Ancestral(SEEDS(2, side=NOISE, tau=0.0))         dpm_2_ancestral, KDPM2 ancestral

    Where the process ends above lambda_d it goes down to that end, with so much less noise. Steps to sigma = 0 are
    `base`'s own, and so are steps from alpha = 0 under a `Tau`.

    Args:
        base: a deterministic single-step method.
        eta: DDIM's, in [0, 1], or the strength itself as a `Tau`.

    The flow carries p_s to p_d and noise p_d to p_t exactly, so the only error of the law is `base`'s: weak order is
    its order, 3 included, whatever the data. Source: k-diffusion's samplers of these names;
    formulas derived here. Cost: `base`'s network calls, and 1 noise a step.
    """

    base: Method
    eta: float | Tau = 1.0

    def __post_init__(self) -> None:
        if self.base.stochastic:
            raise ValueError(
                f"Ancestral: got the stochastic base {self.base}, expected a deterministic one, such as DDIM()"
            )
        if not (isinstance(self.eta, Tau) or 0 <= self.eta <= 1):
            raise ValueError(f"Ancestral: got eta={self.eta}, expected 0 <= eta <= 1, or a Tau")

    @property
    def stochastic(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return isinstance(self.eta, Tau) or self.eta > 0

    @property
    def order(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.base.order

    def step(self, b: Builder, i: int) -> None:
        down = self._down(b, i)
        if down <= b.lam[i + 1]:
            return self._base(b, i, b.t[i + 1])
        t, alpha, _ = b.at(down)
        self._base(b, i, t)
        b.combine(
            "x",
            (b.alpha[i + 1] / alpha, "x"),
            noise=b.sigma[i + 1] * math.sqrt(-math.expm1(2 * (b.lam[i + 1] - down))),
        )

    def _down(self, b: Builder, i: int) -> float:
        """lambda_d; lambda_t itself where the step draws nothing."""
        low, high = b.lam[i], b.lam[i + 1]
        tau = self.eta if isinstance(self.eta, Tau) else Eta(self.eta)
        if math.isfinite(high - low):
            rise = mean_square(tau, low, high) * (high - low)
        elif isinstance(tau, Eta) and math.isfinite(high):  # from alpha = 0
            rise = -math.log1p(-(tau.value**2)) / 2 if tau.value < 1 else math.inf
        else:
            rise = 0.0
        return min(high + rise, float(b.process.lam(b.process.t_min)))

    def _base(self, b: Builder, i: int, t: float) -> None:
        """One step of the base from node i to time t. It is given the step before too, to see if it reads of it."""
        nodes = [*b.t[max(i - 1, 0) : i + 1], t]
        inner = Builder(b.process, as_time(nodes))
        for k in range(inner.steps):
            inner.forget()
            inner.begin()
            self.base.step(inner, k)
        known = {"x"}
        for op in inner.ops:
            stale = set(reads(op)) - known
            if stale:
                raise ValueError(
                    f"Ancestral: got the multistep {self.base}, which reads {', '.join(sorted(stale))} of an "
                    "earlier step; expected a single-step base, such as DPMSolverPPSingle(); multistep methods "
                    "with noise are SASolver and SDEDPMSolverPP"
                )
            known |= set(writes(op))
        b.ops += [_named(op, f"_{i}") for op in inner.ops]


def _named(op: Instruction, tag: str) -> Instruction:
    """The same instruction on registers of its own, but for "x"."""

    def name(register: str) -> str:
        return register if register == "x" else f"{register}{tag}"

    if isinstance(op, Combine):
        return replace(op, out=name(op.out), terms=tuple([(c, name(r)) for c, r in op.terms]))
    outs = tuple([name(out) for out in op.outs])
    if isinstance(op, Evaluate):
        return replace(op, outs=outs, src=name(op.src))
    assert isinstance(op, Apply)
    return replace(op, outs=outs, srcs=tuple([name(src) for src in op.srcs]))
