"""Sequential Monte Carlo along a sampler, with right weights, under any guide as the proposal."""

import warnings
from typing import Annotated, Any

import torch
from torch import Tensor

from ...adjoint import Auto, Gradient
from ...adjoint.not_finite import which_samples
from ...solvers import Addressed, Combine, Model, Plan
from ...solvers.checked import checked
from ...solvers.kinds import check_kind
from ...solvers.wanted import OWN_WORDS
from ..guides.bookkeeping import Through
from ..guides.guide import Guide, Hook
from ..guides.steering import steer
from ..guides.strengths import repeated_strengths
from ..guides.validity import check_fields
from ..rewards.base import RewardFunction
from .cloud import Cloud
from .layout import PROPOSAL, RESAMPLING, ParticleNoise, check_particles, for_particles, in_stream
from .potentials import Discounted, Potential
from .resampling import Resampling, Systematic
from .weighing import Weighing, log_mean, relative_variance

BY_DATA = frozenset({Hook.DATA, Hook.VELOCITY})
LOW_ESS = 0.05  # share of the particles below which `smc` warns


@checked
def smc(
    denoiser: Model,
    plan: Plan,
    x: Tensor,
    reward: RewardFunction,
    noise: Annotated[Addressed, OWN_WORDS],
    *,
    beta: float = 1.0,
    proposal: Guide | None = None,
    potential: Potential = Discounted(),
    resampling: Resampling = Systematic(),
    threshold: float = 0.5,
    cond: Any = None,
    context: Any = None,
    through: Through = Through.NOTHING,
    gradient: Gradient = Auto(),
    progress: bool = False,
) -> Cloud:
    """Weighted particles of p(x_0) exp(r(x_0)/beta) / Z, p the law of `plan`'s samples.

        propose  x_{k+1} ~ q(. | x_k),  the step with the proposal's predictions
        weigh    log w += log G_k, from r_k = r(D(x_k))/beta, or log p(y | x_k)/beta of a proposal that is a
                 `Twist` (TMPD, PiGDM)
        resample where ESS <= threshold K; else the weights are kept
        correct  log w += log p(x_{k+1} | x_k) - log q(x_{k+1} | x_k)

    with exact weights at the end whatever the proposal and the potentials: E[exp(log_z)] = E_p[exp(r/beta)]
    for every K, and `Cloud.mean` converges to the tilted mean as K grows. r = log p(y | x_0) with beta = 1
    gives the posterior and its evidence, under p: the law of this plan's N steps, not the data's. On mixtures
    and digits the evidence under 50 DDIM(1.0) steps was 18 to 25 % off the data's own. To see how much of that there
    is, run it with 2 N steps as well: what log_z moves by beyond its standard error (`Cloud.relative_variance`)
    is the sampler's.

    Warns (UserWarning) where the effective sample size fell below a twentieth of the particles (1.5 of few).
    Lineages lost there do not come back, whatever the last ESS is: log_z is then low, by tens of nats where one
    particle was left, and means are those of few.

    Args:
        plan: stochastic, one draw a step (DDPM, DDIM(eta > 0), ...).
        x: (B, K, ...) particles of the law at the plan's first time; `starting_particles` draws them.
        reward: (x (B K, ...), context) to (B K,); context is repeated for the particles as cond is: tensors
            (B, ...).
        noise: particle k of a sample has stream `noise.stream + k`; resampling and the proposal have others.
        proposal: any guide on the data prediction or velocity; its own errors cost variance, never bias.
            Its measurements' y (B, ...) and its strengths (B,) are repeated for the particles too. A
            `Twist`'s likelihood is far better calibrated at high noise than r(D): docs/inverse.md has both;
            `TMPD(m).during()` weighs by r(D).
        potential: what particles are weighed by on the way. `Discounted` counts r(D(x_k)) by what is known of
            x_0, since at high noise a sharp reward of a prediction taken for certain leaves one particle;
            `Difference`, as published, does not.
        threshold: 0 never resamples before the end, 1 always.
        through: Through.FULL differentiates the cloud, its weights and log_z: at the proposal's strengths, measurement
            and operator, at weights, conditioning and x. Who is resampled is a draw and has no derivative of its own: a
            particle chosen by a weight w carries on w / stop(w) (Scibior and Wood 2021, arXiv 2106.10314), with which
            the gradient of exp(log_z) is unbiased for every K, and those of log_z and of means consistent in K. Leaving
            it out, as is common, is biased by what resampling does. The reward must be differentiable.
        gradient: the strategy that differentiates the run, as in `steer`.

    Source: Wu et al. 2023 (twisted diffusion sampler), arXiv 2306.17775, algorithm 1; Singhal et al. 2025,
    arXiv 2501.06848. Cost: K plan.nfe network calls a sample, and the proposal's VJPs; no calls for the
    rewards: D(x_k) is the step's own.

    Raises:
        ValueError: a plan without noise, a proposal on the state, shapes that do not fit.
    """
    check_particles(x, noise)
    if through is Through.STOPPED:
        raise ValueError(
            "smc: got through=Through.STOPPED, expected NOTHING or FULL: weights need the corrections' own gradient"
        )
    if proposal is not None:
        check_kind("proposal", proposal, Guide, "a guide such as TMPD(measurement), or None")
        check_fields(proposal)
    if proposal is not None and not proposal.hooks() <= BY_DATA:
        raise ValueError(
            f"proposal: got {proposal} with hooks {sorted(h.value for h in proposal.hooks())}, expected data "
            "or velocity only: the law of a state changed after its step is not known"
        )
    if beta <= 0 or not 0 <= threshold <= 1:
        raise ValueError(
            f"smc: got beta={beta}, threshold={threshold}, expected beta > 0 and 0 <= threshold <= 1"
        )
    if not plan.slots:
        raise ValueError(
            f"smc: got {plan.name}, which draws no noise, expected a stochastic plan; take DDPM() or "
            "DDIM(1.0)"
        )
    shape = (x.shape[0], x.shape[1])
    guide = Weighing(
        reward=reward,
        context=for_particles(context, *shape),
        shape=shape,
        beta=beta,
        proposal=repeated_strengths(proposal or Guide(), *shape).repeated(shape[1]),
        noisy=_noisy_steps(plan),
        potential=potential,
        resampling=resampling,
        threshold=threshold,
        source=in_stream(noise, RESAMPLING),
    )
    run = steer(
        denoiser,
        plan,
        x.flatten(0, 1),
        guide,
        cond=for_particles(cond, *shape),
        noise=ParticleNoise(noise, shape[1]),
        draws=ParticleNoise(in_stream(noise, PROPOSAL), shape[1]),
        through=through,
        gradient=gradient,
        progress=progress,
    )
    memory = run.memory(guide)
    log_w = memory["log_w"]
    _warn_of_none(log_w)
    _warn_of_few(torch.stack(memory["ess"]), shape[1])
    return Cloud(
        x=run.sample.unflatten(0, shape),
        log_weights=log_w.log_softmax(1),
        log_z=memory["log_z"] + log_mean(log_w),
        relative_variance=relative_variance(
            log_w, memory["founders"], torch.stack(memory["resampled"]).sum(0)
        ),
        ess=torch.stack(memory["ess"]),
        resampled=torch.stack(memory["resampled"]),
        run=run,
    )


def _warn_of_none(log_w: Tensor) -> None:
    """Warn of samples whose particles (B, K) all ended without a weight."""
    empty = log_w.isneginf().all(1)
    if bool(empty.any()):
        warnings.warn(
            f"smc: got a reward of -inf for all {log_w.shape[1]} particles of {which_samples(empty)}, expected a "
            "finite one somewhere: log_z is -inf there and weights and means are NaN; take more particles, a proposal "
            "that leads to where the reward is finite, or a reward that falls off gradually",
            stacklevel=3,
        )


def _warn_of_few(sizes: Tensor, count: int) -> None:
    """Warn where the effective sample sizes (N, B) of `count` particles fell low. With fewer than four they always
    may.
    """
    sizes = torch.where(sizes == 0, torch.inf, sizes)  # of which `_warn_of_none` has warned
    if not sizes.numel():
        return
    least, limit = float(sizes.min()), max(LOW_ESS * count, 1.5)
    if count < 4 or least >= limit:
        return
    step, sample = divmod(int(sizes.argmin()), sizes.shape[1])
    warnings.warn(
        f"smc: got an effective sample size of {least:.3g} of {count} particles after step {step} (sample {sample}), "
        f"expected at least {limit:.3g}: log_z is likely far too low and means are those of few; take a proposal with "
        "a likelihood of its own such as TMPD(measurement), a potential that asks less early such as Discounted(), "
        "or more particles",
        stacklevel=3,
    )


def _noisy_steps(plan: Plan) -> frozenset[int]:
    """The steps that draw noise."""
    return frozenset(
        k for k in range(plan.steps) if any(isinstance(op, Combine) and op.noise for op in plan.step(k))
    )
