"""Networks of a table of steps in a line each: DiT, guided-diffusion, lucidrains, score_sde. Their loops written out,
value and gradient, and the denoiser of a Gaussian in closed form.
"""

import pytest
import torch
from elsewhere import ACP, CHANNELS, Law, T, assert_denoises, check_line, start
from torch import nn

from pullback.solvers import (
    DDIM,
    DDPM,
    NOISE,
    SCORE,
    VE,
    VP,
    Clamp,
    ClassifierFree,
    Denoiser,
    DiscreteVP,
    FirstChannels,
    FlowEuler,
    GivenNoise,
    Keywords,
    LabelTable,
    LearnedVariance,
    Linspace,
    NoiseLevel,
    OnData,
    Passes,
    PosteriorVariance,
    Scaled,
    UniformT,
    V,
    WholeLabels,
)

TABLE = DiscreteVP(ACP)
LEARNED = DDPM(PosteriorVariance.LEARNED)
EVERY = Linspace(T)


class Steps(Law):
    """Of labels 0 .. T-1, which are looked up."""

    def levels(self, t):
        assert t.dtype == torch.int64 and t.ndim == 1
        return ACP[t].sqrt()[:, None], (1 - ACP[t]).sqrt()[:, None]


# guided-diffusion and DiT: gaussian_diffusion.py, respace.py
# ------------------------------------------------------------------------------------------


class UNetModel(Steps):
    """(x, timesteps, y) -> eps and what says the variance, behind one another: learn_sigma."""

    def __init__(self):
        super().__init__()
        self.variance = nn.Linear(CHANNELS, CHANNELS, dtype=torch.float64)

    def forward(self, x, timesteps, y=None):
        shift = 0.0 if y is None else self.classes(y)
        return torch.cat([self.noise(x, *self.levels(timesteps), shift), self.variance(x + shift).tanh()], 1)


class DiT(UNetModel):
    """forward_with_cfg guides the first three channels; what is behind them stays the conditional half's."""

    def forward_with_cfg(self, x, t, y, cfg_scale):
        half = x[: len(x) // 2]
        model_out = self.forward(torch.cat([half, half], dim=0), t, y)
        eps, rest = model_out[:, :3], model_out[:, 3:]
        cond_eps, uncond_eps = torch.split(eps, len(eps) // 2, dim=0)
        half_eps = uncond_eps + cfg_scale * (cond_eps - uncond_eps)
        return torch.cat([torch.cat([half_eps, half_eps], dim=0), rest], dim=1)


def p_sample_loop(model, x, noise, use=range(T), clip=False, **model_kwargs):
    """SpacedDiffusion with learned range: betas of the steps kept, posterior, Nichol and Dhariwal's interpolation."""
    use = torch.tensor(list(use))  # _WrappedModel's map
    acp = ACP[use]
    prev = torch.cat([torch.ones(1), acp[:-1]])
    betas = 1 - acp / prev
    posterior_variance = betas * (1 - prev) / (1 - acp)
    log_clipped = torch.cat([posterior_variance[1:2], posterior_variance[1:]]).log()
    coef1, coef2 = betas * prev.sqrt() / (1 - acp), (1 - prev) * (1 - betas).sqrt() / (1 - acp)
    for drawn, i in enumerate(reversed(range(len(use)))):
        out = model(x, use[i].expand(len(x)), **model_kwargs)
        eps, values = torch.split(out, CHANNELS, dim=1)
        frac = (values + 1) / 2
        log_variance = frac * betas[i].log() + (1 - frac) * log_clipped[i]
        start_x = (1 / acp[i]).sqrt() * x - (1 / acp[i] - 1).sqrt() * eps
        mean = coef1[i] * (start_x.clamp(-1, 1) if clip else start_x) + coef2[i] * x
        x = mean + (torch.exp(0.5 * log_variance) * noise[drawn] if i else 0.0)
    return x


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("use", [range(T), [0, 3, 6, 10, 14, 19]], ids=["every step", "respaced"])
def test_guided_diffusion_s_models(use, clip):
    net, y, x = UNetModel(), torch.tensor([0, 2, 1]), start()
    process, label = DiscreteVP(ACP[list(use)]), WholeLabels(LabelTable([float(k) for k in use]))
    model = LearnedVariance(net, process, NOISE, call=Keywords(), label=label)
    method = OnData(LEARNED, Clamp(-1.0, 1.0)) if clip else LEARNED
    plan = method.plan(process, Linspace(len(use)))
    noise = torch.randn(plan.slots, 3, CHANNELS)
    want = p_sample_loop(net, x, noise, use, clip, y=y)
    check_line(model, plan, want, x, [], {"y": y}, GivenNoise(noise))
    assert_denoises(model, net, (1.0, 4.0), {"y": y}, net.classes(y).detach())
    fast = DDIM().plan(process, Linspace(len(use)))
    without = Denoiser(net, process, NOISE, call=FirstChannels(Keywords()), label=label)
    check_line(without, fast, ddim_sample_loop(net, x, use, y=y), x, [], {"y": y})


def ddim_sample_loop(model, x, use, **model_kwargs):
    acp = ACP[list(use)]
    prev = torch.cat([torch.ones(1), acp[:-1]])
    for i in reversed(range(len(acp))):
        eps = model(x, torch.tensor(list(use))[i].expand(len(x)), **model_kwargs)[:, :CHANNELS]
        pred_xstart = (1 / acp[i]).sqrt() * x - (1 / acp[i] - 1).sqrt() * eps
        eps = ((1 / acp[i]).sqrt() * x - pred_xstart) / (1 / acp[i] - 1).sqrt()
        x = pred_xstart * prev[i].sqrt() + (1 - prev[i]).sqrt() * eps
    return x


def test_dit_with_its_own_guidance_and_with_ours():
    """The doubled batch, three channels of four guided, learned variance: as it is, and by ClassifierFree."""
    net, y, x = DiT(), torch.tensor([0, 2, 1]), start()
    plan = LEARNED.plan(TABLE, EVERY)
    noise, null = torch.randn(plan.slots, 6, CHANNELS), torch.full_like(y, 3)
    scale = torch.tensor(4.0, requires_grad=True)
    both = torch.cat([y, null])
    want = p_sample_loop(net.forward_with_cfg, torch.cat([x, x]), noise, y=both, cfg_scale=scale)[:3]
    as_it_is = LearnedVariance(
        net, TABLE, NOISE, label=WholeLabels(),
        call=lambda net, x, t, y: net.forward_with_cfg(
            torch.cat([x, x]), torch.cat([t, t]), torch.cat([y, torch.full_like(y, 3)]), scale)[: len(x)],
    )  # fmt: skip
    given = GivenNoise(noise[:, :3])
    check_line(as_it_is, plan, want, x, [scale], y, given)
    channels = torch.cat([scale.expand(3), torch.ones(1)])  # (C, 1, 1) of images
    plain = LearnedVariance(net, TABLE, NOISE, label=WholeLabels())
    for passes in Passes:
        model = ClassifierFree(plain, channels[None], torch.tensor(3), passes)
        check_line(model, plan, want, x, [scale], y, given)
    every = ClassifierFree(plain, scale, torch.tensor(3), Passes.ONE)  # what the paper has

    def all_channels(x, t, y):
        (eps, v), (without, _) = (net(x, t, c).chunk(2, 1) for c in (y, null))
        return torch.cat([without + scale * (eps - without), v], 1)

    check_line(every, plan, p_sample_loop(all_channels, x, noise[:, :3], y=y), x, [scale], y, given)


# lucidrains: denoising_diffusion_pytorch
# ------------------------------------------------------------------------------------------


class Unet(Steps):
    """(x, time, x_self_cond=None) -> v."""

    def forward(self, x, time, x_self_cond=None):
        alpha, sigma = self.levels(time)
        assert x_self_cond is None
        return alpha * self.noise(x, alpha, sigma) - sigma * self.data(x, alpha, sigma)


def test_lucidrains_s_models():
    """p_sample_loop with objective pred_v, clipped; ddim_sample with eta, its times from linspace(-1, T - 1)."""
    net, x = Unet(), start()
    model = Denoiser(net, TABLE, V, label=WholeLabels())
    assert_denoises(model, net, (0.0, 7.0, 19.0))
    noise = torch.randn(T, 3, CHANNELS)
    prev = torch.cat([torch.ones(1), ACP[:-1]])
    betas = 1 - ACP / prev

    def predictions(img, t, clip):
        v = net(img, torch.full((3,), t), None)
        x_start = ACP[t].sqrt() * img - (1 - ACP[t]).sqrt() * v
        x_start = x_start.clamp(-1, 1) if clip else x_start
        return x_start, ((1 / ACP[t]).sqrt() * img - x_start) / (1 / ACP[t] - 1).sqrt()

    img = x
    for drawn, t in enumerate(reversed(range(T))):
        x_start, _ = predictions(img, t, True)
        mean = betas[t] * prev[t].sqrt() / (1 - ACP[t]) * x_start
        mean = mean + (1 - prev[t]) * (1 - betas[t]).sqrt() / (1 - ACP[t]) * img
        img = mean + ((betas[t] * (1 - prev[t]) / (1 - ACP[t])).sqrt() * noise[drawn] if t else 0.0)
    plan = OnData(DDPM(), Clamp(-1.0, 1.0)).plan(TABLE, EVERY)
    check_line(model, plan, img, x, [], None, GivenNoise(noise[: plan.slots]))

    eta, img = 0.4, x
    times = [int(t) for t in torch.linspace(-1, T - 1, steps=6)][::-1]
    for drawn, (time, after) in enumerate(zip(times[:-1], times[1:], strict=True)):
        x_start, pred_noise = predictions(img, time, False)
        if after < 0:
            img = x_start
            continue
        alpha, alpha_next = ACP[time], ACP[after]
        sigma = eta * ((1 - alpha / alpha_next) * (1 - alpha_next) / (1 - alpha)).sqrt()
        c = (1 - alpha_next - sigma**2).sqrt()
        img = x_start * alpha_next.sqrt() + c * pred_noise + sigma * noise[drawn]
    plan = DDIM(eta).plan(TABLE, [float(t) for t in times])
    check_line(model, plan, img, x, [], None, GivenNoise(noise[: plan.slots]))


# score_sde_pytorch: models/utils.py, sampling.py
# ------------------------------------------------------------------------------------------


class Ncsnpp(Law):
    """(x, labels): -score std at labels 999 t of the VP SDE; the score at labels sigma of the VE SDE."""

    def __init__(self, process):
        super().__init__()
        self.process = process

    def forward(self, x, labels):
        if isinstance(self.process, VE):
            return -self.noise(x, torch.ones(1, 1), labels[:, None]) / labels[:, None]
        t = labels / 999
        return self.noise(x, self.process.alpha(t)[:, None], self.process.sigma(t)[:, None])


def test_score_sde_s_models():
    """The probability flow by Euler steps of the drift, of a VP and a VE network."""
    times = torch.linspace(1, 1e-3, 7)

    def flow(x, drift):
        for t, after in zip(times[:-1], times[1:], strict=True):
            x = x + (after - t) * drift(x, t)
        return x

    vp, x = Ncsnpp(VP()), start()

    def vp_drift(x, t, b_0=0.1, b_1=20.0):
        beta = b_0 + t * (b_1 - b_0)
        log_mean_coeff = -0.25 * t**2 * (b_1 - b_0) - 0.5 * t * b_0
        std = torch.sqrt(1.0 - torch.exp(2.0 * log_mean_coeff))
        score = -vp(x, (t * 999).expand(3)) / std
        return -0.5 * beta * x - 0.5 * beta * score

    model = Denoiser(vp, VP(), NOISE, label=Scaled(999.0))
    plan = FlowEuler().plan(VP(), UniformT(6, end=1e-3))
    check_line(model, plan, flow(x, vp_drift), x, tolerance=1e-9)
    assert_denoises(model, vp, (0.1, 0.5, 1.0))

    ve, x = Ncsnpp(VE()), start(50.0)

    def ve_drift(x, t, low=0.01, high=50.0):
        sigma = low * (high / low) ** t
        diffusion = sigma * (2 * torch.tensor(high / low).log()).sqrt()
        return -0.5 * diffusion**2 * ve(x, sigma.expand(3))

    model = Denoiser(ve, VE(), SCORE, label=NoiseLevel())
    plan = FlowEuler().plan(VE(), UniformT(6, end=1e-3))
    check_line(model, plan, flow(x, ve_drift), x, tolerance=1e-9)
    assert_denoises(model, ve, (0.1, 0.5, 1.0))


def test_score_sde_s_ancestral_sampler():
    """AncestralSamplingPredictor: the noise of step k, the network told (N - 1) t at t from 1 to eps."""

    class Ddpm(Law):
        def forward(self, x, labels):
            index = labels.long()
            return self.noise(x, ACP[index].sqrt()[:, None], (1 - ACP[index]).sqrt()[:, None]) * (
                1 + labels[:, None]
            )

    net, x, eps = Ddpm(), start(), 1e-3
    noise, betas, img = torch.randn(T, 3, CHANNELS), 1 - ACP / torch.cat([torch.ones(1), ACP[:-1]]), start()
    img = mean = x
    for drawn, t in enumerate(torch.linspace(1.0, eps, T)):
        labels = (t * (T - 1)).expand(3)
        k = int(labels[0].long())
        score = -net(img, labels) / (1 - ACP[k]).sqrt()
        mean = (img + betas[k] * score) / torch.sqrt(1.0 - betas[k])
        img = mean + betas[k].sqrt() * noise[drawn]
    model = Denoiser(net, TABLE, NOISE, label=Scaled(1 - eps, offset=eps * (T - 1)))
    plan = DDPM(PosteriorVariance.LARGE).plan(TABLE, EVERY)
    check_line(model, plan, mean, x, [], None, GivenNoise(noise[: plan.slots]))
