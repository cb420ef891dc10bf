"""The Ito density estimator: log q_t(x_t) along a reverse SDE path, without a divergence."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...solvers import Model, Plan
from ...solvers.broadcast import per_sample
from ...solvers.checked import checked
from ...solvers.instructions import Combine
from ...solvers.model import data_prediction
from ...solvers.packing import State, packing_of
from ...solvers.per_step import at_step, check_steps
from ...solvers.process import Process, as_time
from ...solvers.wanted import Limit
from ..transforms import transform


@checked
def ito_log_prob(
    denoiser: Model,
    plan: Plan,
    states: Sequence[State],
    start: Tensor,
    *,
    cond: Any = None,
    variance: Limit = 1.0,
) -> Tensor:
    """(N+1, B) nats: the model's log q_t(x_t) at every node of a path that a reverse SDE drew.

        states = trajectory(denoiser, plan, x, range(plan.steps + 1), noise=Addressed(0))
        log_q = ito_log_prob(denoiser, plan, states, start=log_q_of_x)[-1]

    With the forward process dx = f x dt + g dw, its score s and the reverse time tau = -t, Ito's lemma gives along any
    path of quadratic variation g^2 dtau, whatever its drift,

        d log q = s . dx + (f d + f x . s - g^2 |s|^2/2) dtau

    since the divergence of s enters the equation of log q with -g^2/2, and Ito's term with +g^2/2. In y = x/alpha, v =
    sigma^2/alpha^2 it is d log q = s . dy - |s|^2/2 (v_k - v_{k+1}), with d log(alpha_k/alpha_{k+1}) for the change of
    variables, and a step of it the ratio of two Gaussian kernels, N(y_{k+1}; y_k + (v_k - v_{k+1}) s, w) over
    N(y_k; y_{k+1}, v_k - v_{k+1}), with w = v_k - v_{k+1} (derived here). The first has the mean that E[y_{k+1} | y_k]
    has for any data, and for data of a variance V the variance is w (V + v_{k+1})/(V + v_k). Putting that in changes
    the limit by nothing and makes every step exact for isotropic Gaussian data, however long.

    Args:
        plan: that drew the path: noise of full strength (tau = 1, eta = 1), sigma > 0 up to its last node.
        states: those at its N + 1 nodes. Gradients reach them, as they reach `denoiser` and cond.
        start: (B,), log q of the first; `GaussianPrior()` of the plan's first levels.
        variance: V, of an entry of the data, roughly; inf is the published estimator.

    Raises:
        ValueError: another number of states, a plan of another noise strength or none, alpha = 0 at its start.

    Order: root mean square error h^(1/2), mean error h. Cost: N network calls; with gradients N more and N VJPs, at the
    memory of one call. Source: Skreta et al. 2024, arXiv 2412.17762, whose estimator has V = inf.
    """
    if len(states) != plan.steps + 1:
        raise ValueError(
            f"states: got {len(states)}, expected {plan.steps + 1}, one for each node of the plan; take "
            "trajectory(denoiser, plan, x, range(plan.steps + 1), noise=...)"
        )
    packing = packing_of(states[0])
    model, xs = packing.model(denoiser), [packing.pack(state) for state in states]
    if start.shape != (len(xs[0]),):
        raise ValueError(
            f"start: got shape {tuple(start.shape)}, expected ({len(xs[0])},), log q of each first state"
        )
    _check_noise(plan)
    if model.process != plan.process:
        raise ValueError(
            f"process: got a plan for {plan.process}, expected the denoiser's {model.process}; pass the denoiser that "
            "drew the path"
        )
    model.check_times(torch.tensor(plan.times[:-1], dtype=torch.float64))
    scheduled, found = check_steps(cond, plan.steps), [start]
    for k in range(plan.steps):
        ends = as_time(plan.times[k]), as_time(plan.times[k + 1])
        known = at_step(cond, k) if scheduled else cond
        arguments = model, xs[k], xs[k + 1], ends, known, variance
        gained = (
            checkpoint(_gained, *arguments, use_reentrant=False)
            if torch.is_grad_enabled() and not transform()  # torch.func keeps what it saves itself
            else _gained(*arguments)
        )
        found.append(found[-1] + gained)
    return torch.stack(found)


def _gained(
    model: Model, x: Tensor, x_next: Tensor, ends: tuple[Tensor, Tensor], cond: Any, variance: float
) -> Tensor:
    """(B,): log q at the end of a step less that at its start."""
    (alpha, v), (alpha_next, v_next) = (levels_at(model.process, t, x) for t in ends)
    y = x / alpha
    score = (data_prediction(model, x, ends[0], cond) - y) / v
    gained = kernel_ratio(score, x_next / alpha_next - y, v - v_next, variance + v_next)
    return gained + x.shape[1:].numel() * (alpha / alpha_next).log().flatten()


def kernel_ratio(score: Tensor, moved: Tensor, width: Tensor, spread: Tensor) -> Tensor:
    """(B,): the gain of log q in y over a step by `moved` with v falling by `width`; `spread` is V + v at its end."""
    ratio = score * moved - 0.5 * width * score.square()
    bent = (moved - width * score).square() / spread - torch.log1p(width / spread)
    return (ratio - 0.5 * bent).flatten(1).sum(1)


def levels_at(process: Process, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """(alpha, v = sigma^2/alpha^2) at t, shaped to meet a state."""
    alpha, sigma = process.alpha(t).to(like), process.sigma(t).to(like)
    return per_sample(alpha, like), per_sample((sigma / alpha).square(), like)


def _check_noise(plan: Plan) -> None:
    """Raise ValueError unless every step adds the noise that the forward process would, but for terms of order h."""
    if plan.order < 1:
        raise ValueError(
            f"ito_log_prob: got {plan.name}, whose steps follow no diffusion, expected those of a reverse SDE; take "
            "DDPM(), SDEDPMSolverPP() or EulerMaruyama()"
        )
    times = torch.tensor(plan.times, dtype=torch.float64)
    alpha, lam = plan.process.alpha(times), plan.process.lam(times)
    if bool((alpha[:-1] == 0).any()) or bool(lam[:-1].isinf().any()):
        raise ValueError(
            f"{plan.name}: got alpha or sigma = 0 before the last node, expected both positive, where scores are; "
            "start the grid inside the process"
        )
    for k in range(plan.steps):
        drawn = [c for op in plan.step(k) if isinstance(op, Combine) for c, _ in op.noise]
        share = torch.as_tensor(drawn[0] if drawn else 0.0, dtype=torch.float64)
        h = (lam[k + 1] - lam[k]).clamp(max=8.0)
        part = (share / alpha[k + 1]).square() / ((-2 * lam[k]).exp() * -torch.expm1(-2 * h))
        if bool(((part < 0.8 * torch.exp(-2 * h)) | (part > 1.25 * torch.exp(2 * h)))[h > 0].any()):
            raise ValueError(
                f"{plan.name}: got a step {k} with {float(part.min()):.3g} of the forward process's noise, expected "
                "all of it, at which the divergence drops out; take DDPM(), SDEDPMSolverPP() or EulerMaruyama()"
            )
