"""Faults of diffusers, k-diffusion, deepinv and TRL, for peers_faults.py."""

import math
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import torch
from peers_said import Pair, of, peer
from torch import Tensor

from pullback.adjoint import sample
from pullback.guidance import DiffPIR, Mask, Measurement, steer
from pullback.solvers import (
    DATA,
    DDIM,
    DOPRI5,
    EDM,
    NOISE,
    VP,
    AdaptiveDPM,
    Addressed,
    Denoiser,
    DiscreteVP,
    DPMSolverPP,
    FlowSDE,
    Mixture,
    RectifiedFlow,
    RhoRK,
    SDEDPMSolverPP,
    Transitions,
    UniformT,
    adapt,
    moments,
    run,
)  # fmt: skip
from pullback.solvers.process import as_time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests" / "support"))

F64 = torch.float64


# diffusers
# --------------------------------------------------------------------------------------------------------------

TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def mixture() -> Mixture:
    means = torch.tensor([[0.4, -0.7], [-0.5, 0.3]], dtype=F64)
    return Mixture.isotropic(torch.ones(2, dtype=F64) / 2, means, torch.tensor([0.3, 0.4], dtype=F64))


def denoised(x: Tensor, sigma: Any, **_: Any) -> Tensor:
    """E[x_0] of the mixture at x_0 + sigma eps, as k-diffusion calls a model."""
    return mixture().denoiser(EDM())(x, torch.as_tensor(sigma).to(x).expand(len(x)))


def slope(error: Callable[[int], float]) -> float:
    """The order seen between 40 and 80 steps."""
    return math.log2(error(40) / error(80))


def on_sigmas(end: Callable[[Tensor, Tensor], Tensor], sigmas: Tensor) -> Pair:
    """Largest errors in the plane of what `end` and of what our third order makes of one start on `sigmas`."""
    x = sigmas[0] * torch.randn(8, 2, generator=torch.Generator().manual_seed(3), dtype=F64)
    model, process = mixture().denoiser(EDM()), EDM()
    fine = torch.linspace(float(sigmas[0].log()), float(sigmas[-1].log()), 801, dtype=F64).exp()
    fine[0], fine[-1] = sigmas[0], sigmas[-1]
    with torch.no_grad():
        true = run(model, RhoRK(DOPRI5).plan(process, fine), x)
        ours = run(model, DPMSolverPP(3).plan(process, sigmas), x)
        return float((end(x, sigmas) - true).abs().max()), float((ours - true).abs().max())


def their_third_order(n: int) -> Pair:
    DPMSolverMultistepScheduler = peer("diffusers").DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(**TABLE, use_lu_lambdas=True, solver_order=3)
    scheduler.set_timesteps(n)
    sigmas = scheduler.sigmas.double()[:-1]  # to the last positive level

    def end(x: Tensor, sigmas: Tensor) -> Tensor:
        x = x / (1 + sigmas[0] ** 2).sqrt()
        for sigma, t in zip(sigmas[:-1], scheduler.timesteps, strict=False):
            level = (1 + sigma**2).sqrt()
            eps = (x * level - denoised(x * level, sigma)) / sigma
            x = scheduler.step(eps, t, x).prev_sample.double()
        return x * (1 + sigmas[-1] ** 2).sqrt()

    return on_sigmas(end, sigmas)


@of("diffusers")
def third_order() -> Pair:
    """Order of DPM-Solver++(3M) between 40 and 80 steps, uniform in lambda, on a mixture in closed form."""
    pairs = {n: their_third_order(n) for n in (40, 80)}
    return slope(lambda n: pairs[n][0]), slope(lambda n: pairs[n][1])


@of("diffusers")
def third_order_with_noise() -> Pair:
    """Weak order of SDE-DPM-Solver++(3M): error of the variance of Gaussian data, by moments of the played loop."""
    from gaussian_orders import weak_error
    from orders import schedulers, their_error

    make, x = schedulers()["DPMSolverMultistep sde 3"], torch.zeros(1, 2, dtype=F64)
    theirs = math.log2(their_error(*make(150), x, noisy=True) / their_error(*make(300), x, noisy=True))
    ours = math.log2(weak_error(SDEDPMSolverPP(3), 150) / weak_error(SDEDPMSolverPP(3), 300))
    return theirs, ours


def gaussian_velocity(x: Tensor, t: Any, mean: float = 0.3, variance: float = 0.25) -> Tensor:
    """eps - x_0 expected at x = (1 - t) x_0 + t eps for x_0 ~ N(mean, variance)."""
    spread = (1 - t) ** 2 * variance + t**2
    return (t - (1 - t) * variance) * (x - (1 - t) * mean) / spread - mean


@of("diffusers")
def variance_of_stochastic_flow() -> Pair:
    """Variance of 200,000 samples of data N(0.3, 0.25) in 400 steps: `stochastic_sampling`, and FlowSDE."""
    FlowMatchEulerDiscreteScheduler = peer("diffusers").FlowMatchEulerDiscreteScheduler

    draw = torch.Generator().manual_seed(0)
    scheduler = FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    scheduler.set_timesteps(400)
    x = torch.randn(200_000, 1, generator=draw)
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        x = scheduler.step(gaussian_velocity(x, sigma), t, x, generator=draw).prev_sample
    plan = FlowSDE().plan(RectifiedFlow(), UniformT(400, start=0.999, end=1e-3))
    return float(x.var()), float(moments(plan, 0.3, 0.25, 0.001 * 0.3, 0.001**2 * 0.25 + 0.999**2)[1])


@of("diffusers")
def spacing_of_ddim() -> Pair:
    """DDIM, 20 steps, "linspace": steps of 19 that lead to another level than the next step starts from."""
    DDIMScheduler = peer("diffusers").DDIMScheduler

    scheduler = DDIMScheduler(**TABLE, timestep_spacing="linspace", clip_sample=False)
    scheduler.set_timesteps(20)
    led_to = [int(t) - 1000 // 20 for t in scheduler.timesteps[:-1]]
    theirs = sum(a != int(b) for a, b in zip(led_to, scheduler.timesteps[1:], strict=True))
    plan = DDIM().plan(DiscreteVP(scheduler.alphas_cumprod), scheduler.timesteps.double())
    nodes = as_time(plan.times)[1:]  # type: ignore[arg-type]
    return theirs, int((nodes != scheduler.timesteps[1:]).sum())


@of("diffusers")
def graph_kept_by_a_scheduler() -> Pair:
    """Schedulers of ten that keep a tensor with a graph after the run, and so its activations; plans that do."""
    diffusers = peer("diffusers")

    kinds = (
        "DDIM",
        "DPMSolverMultistep",
        "DPMSolverSinglestep",
        "UniPCMultistep",
        "DEISMultistep",
        "SASolver",
    )
    kept = 0
    for kind in (*kinds, "HeunDiscrete", "KDPM2Discrete", "LMSDiscrete", "PNDM"):
        scheduler: Any = getattr(diffusers, f"{kind}Scheduler")(**TABLE)
        scheduler.set_timesteps(8)
        x = torch.randn(1, 4, 8, 8, requires_grad=True) * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            x = scheduler.step(torch.tanh(scheduler.scale_model_input(x, t)), t, x).prev_sample
        held = [
            v for value in vars(scheduler).values() for v in (value if isinstance(value, list) else [value])
        ]
        kept += any(isinstance(v, Tensor) and v.grad_fn is not None for v in held)
    plan = DPMSolverPP(2).plan(VP(), UniformT(8, end=0.01))
    sample(Denoiser(lambda x, t: torch.tanh(x), VP(), NOISE), plan, torch.randn(1, 4, requires_grad=True))
    return kept, sum(isinstance(v, Tensor) and v.grad_fn is not None for v in vars(plan).values())


# k-diffusion, deepinv, TRL
# ----------------------------------------------------------------------------------------------------


@of("k-diffusion", "k_diffusion")
def third_order_of_k_diffusion() -> Pair:
    """The order of sample_dpmpp_3m_sde at eta = 0, as for diffusers' scheduler."""
    sample_dpmpp_3m_sde = peer("k_diffusion.sampling").sample_dpmpp_3m_sde

    def errors(n: int) -> Pair:
        sigmas = torch.linspace(math.log(14.6), math.log(0.03), n, dtype=F64).exp()
        return on_sigmas(lambda x, s: sample_dpmpp_3m_sde(denoised, x, s, eta=0.0, disable=True), sigmas)

    pairs = {n: errors(n) for n in (40, 80)}
    return slope(lambda n: pairs[n][0]), slope(lambda n: pairs[n][1])


@of("k-diffusion", "k_diffusion")
def batch_mates_in_adaptive_steps() -> Pair:
    """How far a sample of sample_dpm_adaptive moves when seven others join its batch, relative."""
    sample_dpm_adaptive = peer("k_diffusion.sampling").sample_dpm_adaptive

    x = 14.6 * torch.randn(8, 2, generator=torch.Generator().manual_seed(3), dtype=F64)
    model = mixture().denoiser(EDM())
    theirs = [sample_dpm_adaptive(denoised, x[:k], 0.03, 14.6, disable=True)[0] for k in (1, 8)]
    ours = [adapt(model, x[:k], AdaptiveDPM(3), 14.6, 0.03).state[0] for k in (1, 8)]
    return tuple(float((a - b).norm() / a.norm()) for a, b in (theirs, ours))  # type: ignore[return-value]


@of("deepinv")
def seed_of_zero() -> Pair:
    """How far two runs of DiffPIR with seed=0 are apart, relative; ours with Addressed(0)."""
    deepinv = peer("deepinv")

    torch.manual_seed(0)
    keep, truth = torch.rand(1, 8, 8) > 0.5, torch.rand(1, 1, 8, 8)
    physics = deepinv.physics.Inpainting((1, 8, 8), mask=keep, noise_model=deepinv.physics.GaussianNoise(0.1))
    fidelity = deepinv.optim.data_fidelity.L2()
    sampler = deepinv.sampling.DiffPIR(lambda x, sigma: x / (1 + sigma**2), fidelity, max_iter=10)
    theirs = [sampler(physics.A(truth), physics, seed=0) for _ in range(2)]
    model = Denoiser(lambda x, t: x / (1 + t.reshape(-1, 1, 1, 1) ** 2), EDM(), DATA)
    plan, guide = (
        DDIM(1.0).plan(EDM(), UniformT(10, start=10.0, end=0.01)),
        DiffPIR(Measurement(Mask(keep), truth * keep, 0.1)),
    )
    ours = [steer(model, plan, 10 * truth, guide, noise=Addressed(0)).sample for _ in range(2)]
    return tuple(float((a - b).norm() / a.norm()) for a, b in (theirs, ours))  # type: ignore[return-value]


@of("trl", "trl.trainer.ddpo_trainer")
def density_of_the_last_step() -> Pair:
    """Log-probabilities of 10 that are not finite in DDPO's loop under DDIMScheduler(); in a plan on its levels."""
    DDIMScheduler = peer("diffusers").DDIMScheduler
    scheduler_step = peer("trl.models.modeling_sd_base").scheduler_step

    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(10)
    x, seed, found = torch.randn(2, 1, 8, 8), torch.Generator().manual_seed(0), []
    for t in scheduler.timesteps:
        out = scheduler_step(scheduler, 0.5 * x, t.expand(2), x, eta=1.0, generator=seed)
        x = out.latents
        found.append(bool(out.log_probs.isfinite().all()))
    levels = torch.cat([scheduler.timesteps, -torch.ones(1)]).double()
    plan = DDIM(1.0).plan(DiscreteVP(scheduler.alphas_cumprod), levels)
    dense = Transitions(plan).stochastic  # the step to clean data has no density, and is left out
    finite = [as_time(Transitions(plan).stds[k]).isfinite().all() for k in dense]
    return found.count(False), len(dense) - int(sum(finite))
