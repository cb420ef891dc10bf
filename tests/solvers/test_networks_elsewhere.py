"""Networks of k-diffusion, EDM and ComfyUI in a line each: the samplers of those libraries written out, value and
gradient, and the denoiser of a Gaussian in closed form.
"""

import math

import pytest
import torch
from elsewhere import ACP, SIGMA_MAX, Law, T, assert_denoises, check_line, start
from torch import nn

from pullback.adjoint import PerStep, sample
from pullback.solvers import (
    DATA,
    DDIM,
    EDM,
    FLOW,
    LMS,
    NOISE,
    VP,
    ClassifierFree,
    CosineVP,
    Denoiser,
    DiscreteVP,
    DPMSolverPP,
    EDMHeun,
    EDMPreconditioning,
    FlowEuler,
    GivenNoise,
    Karras,
    Keywords,
    LevelIndex,
    Nearest,
    NoiseLevel,
    OnProcess,
    Passes,
    Preconditioned,
    RectifiedFlow,
    Scaled,
    Shifted,
    V,
    WholeLabels,
)

PROCESS = EDM(t_max=SIGMA_MAX)
GRID = Karras(7, low=0.03)
TIMES = (0.05, 0.7, 9.0)
LOG_SIGMAS = ((1 - ACP) / ACP).sqrt().log()


# k-diffusion: sampling.py
# ------------------------------------------------------------------------------------------


def get_sigmas_karras(n, sigma_min, sigma_max, rho=7.0):
    ramp = torch.linspace(0, 1, n, dtype=torch.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, ramp[:1]])


SIGMAS = get_sigmas_karras(7, 0.03, SIGMA_MAX)


def to_d(x, sigma, denoised):
    return (x - denoised) / sigma


def sample_euler(model, x, sigmas, noise=None, **extra_args):
    ones = x.new_ones(len(x))
    for i in range(len(sigmas) - 1):
        d = to_d(x, sigmas[i], model(x, sigmas[i] * ones, **extra_args))
        x = x + d * (sigmas[i + 1] - sigmas[i])
    return x


def sample_heun(model, x, sigmas, noise=(), s_churn=0.0, s_tmin=0.0, s_tmax=math.inf, s_noise=1.0, **extra):
    ones, drawn = x.new_ones(len(x)), 0
    for i in range(len(sigmas) - 1):
        inside = s_tmin <= sigmas[i] <= s_tmax
        gamma = min(s_churn / (len(sigmas) - 1), 2**0.5 - 1) if inside else 0.0
        sigma_hat = sigmas[i] * (gamma + 1)
        if gamma > 0:
            x = x + noise[drawn] * s_noise * (sigma_hat**2 - sigmas[i] ** 2) ** 0.5
            drawn += 1
        d = to_d(x, sigma_hat, model(x, sigma_hat * ones, **extra))
        dt = sigmas[i + 1] - sigma_hat
        if sigmas[i + 1] == 0:
            x = x + d * dt
        else:
            x_2 = x + d * dt
            d_2 = to_d(x_2, sigmas[i + 1], model(x_2, sigmas[i + 1] * ones, **extra))
            x = x + (d + d_2) / 2 * dt
    return x


def sample_dpmpp_2m(model, x, sigmas, noise=None, **extra_args):
    ones, old = x.new_ones(len(x)), None
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i] * ones, **extra_args)
        t, t_next = -sigmas[i].log(), -sigmas[i + 1].log()
        h = t_next - t
        d = denoised
        if old is not None and sigmas[i + 1] != 0:
            r = (t + sigmas[i - 1].log()) / h
            d = (1 + 1 / (2 * r)) * denoised - 1 / (2 * r) * old
        x = sigmas[i + 1] / sigmas[i] * x - torch.expm1(-h) * d
        old = denoised
    return x


def sample_lms(model, x, sigmas, noise=None, order=4, **extra_args):
    ones, ds = x.new_ones(len(x)), []
    for i in range(len(sigmas) - 1):
        ds = [*ds, to_d(x, sigmas[i], model(x, sigmas[i] * ones, **extra_args))][-order:]
        for j, d in enumerate(reversed(ds)):
            x = x + lms_coefficient(len(ds), sigmas, i, j) * d
    return x


def lms_coefficient(order, sigmas, i, j):
    """The integral of the Lagrange polynomial; k-diffusion leaves it to quadrature of 1e-4."""
    points, weights = (torch.tensor(v) for v in ([-(0.6**0.5), 0.0, 0.6**0.5], [5 / 9, 8 / 9, 5 / 9]))
    middle, half = (sigmas[i + 1] + sigmas[i]) / 2, (sigmas[i + 1] - sigmas[i]) / 2
    total = torch.zeros(())
    for point, weight in zip(points, weights, strict=True):  # exact to degree 5
        product = torch.ones(())
        for k in range(order):
            if k != j:
                product = product * (middle + half * point - sigmas[i - k]) / (sigmas[i - j] - sigmas[i - k])
        total = total + weight * half * product
    return total


CHURN = {"s_churn": 3.0, "s_tmin": 0.05, "s_tmax": 10.0, "s_noise": 1.003}
SAMPLERS = {
    "sample_euler": (sample_euler, DDIM(), {}),
    "sample_heun": (sample_heun, EDMHeun(), {}),
    "sample_heun, s_churn": (
        sample_heun, EDMHeun(churn=3.0, s_min=0.05, s_max=10.0, s_noise=1.003), CHURN,
    ),
    "sample_dpmpp_2m": (sample_dpmpp_2m, DPMSolverPP(2), {}),
    "sample_lms": (sample_lms, LMS(4), {}),
}  # fmt: skip


# k-diffusion: external.py, the denoisers around raw networks
# ------------------------------------------------------------------------------------------


class Own(Law):
    """What k-diffusion calls a model: (x, sigma, **extra_args) -> denoised."""

    def forward(self, x, sigma, cond=0.0):
        return self.data(x, torch.ones(1, 1), sigma[:, None], cond)


class Table(Law):
    """A UNet of Stable Diffusion's kind: (x, index, cond) -> eps or v, the index between two where it is asked."""

    def __init__(self, v=False):
        super().__init__()
        self.v = v

    def forward(self, x, t, context=0.0):
        low = t.floor().clamp(max=T - 2).long()
        sigma = torch.lerp(LOG_SIGMAS[low], LOG_SIGMAS[low + 1], t - low).exp()[:, None]
        alpha = 1 / (1 + sigma**2).sqrt()
        sigma = sigma * alpha
        eps = self.noise(x, alpha, sigma, context)
        return alpha * eps - sigma * self.data(x, alpha, sigma, context) if self.v else eps


class Angle(Law):
    """The v network of k-diffusion's VDenoiser: t = 2 atan(sigma)/pi."""

    def forward(self, x, t, cond=0.0):
        alpha, sigma = (t * math.pi / 2).cos()[:, None], (t * math.pi / 2).sin()[:, None]
        return alpha * self.noise(x, alpha, sigma, cond) - sigma * self.data(x, alpha, sigma, cond)


class Inner(Law):
    """The raw network of K.layers.Denoiser, told sigma itself, and of EDM, told log(sigma)/4."""

    def __init__(self, told=lambda sigma: sigma):
        super().__init__()
        self.told = told

    def forward(self, x, told, cond=None):
        sigma = self.told(told)[:, None]
        size = (sigma**2 + 0.25).sqrt()
        shift = 0.0 if cond is None else cond
        return (self.data(x * size, torch.ones(1, 1), sigma, shift) - 0.25 / size**2 * (x * size)) / (
            sigma * 0.5 / size
        )


def sigma_to_t(sigma, quantize):
    """DiscreteSchedule."""
    log_sigma = sigma.log()
    dists = log_sigma - LOG_SIGMAS[:, None]
    if quantize:
        return dists.abs().argmin(dim=0).to(sigma)
    low = dists.ge(0).cumsum(dim=0).argmax(dim=0).clamp(max=T - 2)
    w = ((LOG_SIGMAS[low] - log_sigma) / (LOG_SIGMAS[low] - LOG_SIGMAS[low + 1])).clamp(0, 1)
    return (1 - w) * low + w * (low + 1)


def eps_denoiser(inner, quantize=False):
    """DiscreteEpsDDPMDenoiser, CompVisDenoiser."""

    def model(x, sigma, **kwargs):
        s = sigma[:, None]
        return x - s * inner(x / (s**2 + 1) ** 0.5, sigma_to_t(sigma, quantize), **kwargs)

    return model


def scaled_denoiser(inner, data, told):
    """Denoiser; DiscreteVDDPMDenoiser and VDenoiser with the other sign and sigma_data = 1."""
    sign, data = math.copysign(1.0, data), abs(data)

    def model(x, sigma, **kwargs):
        s = sigma[:, None]
        c_in = 1 / (s**2 + data**2) ** 0.5
        out = inner(x * c_in, told(sigma), **kwargs) * sign * s * data * c_in
        return out + x * data**2 / (s**2 + data**2)

    return model


own, unet, unet_v, angle, inner = Own(), Table(), Table(v=True), Angle(), Inner()
TABLE = DiscreteVP(ACP)
DENOISERS = {  # the user's line, and k-diffusion's wrapper of the same network
    "a denoiser": (Denoiser(own, PROCESS, DATA, call=Keywords()), own),
    "CompVisDenoiser": (
        OnProcess(Denoiser(unet, TABLE, NOISE, call=Keywords(), label=LevelIndex()), PROCESS),
        eps_denoiser(unet),
    ),
    "CompVisDenoiser, quantize": (
        OnProcess(Denoiser(unet, TABLE, NOISE, call=Keywords(), label=Nearest(LevelIndex())), PROCESS),
        eps_denoiser(unet, quantize=True),
    ),
    "CompVisVDenoiser": (
        OnProcess(Denoiser(unet_v, TABLE, V, call=Keywords(), label=LevelIndex()), PROCESS),
        scaled_denoiser(unet_v, -1.0, lambda s: sigma_to_t(s, False)),
    ),
    "VDenoiser": (
        OnProcess(Denoiser(angle, CosineVP(0.0), V, call=Keywords()), PROCESS),
        scaled_denoiser(angle, -1.0, lambda s: s.atan() / math.pi * 2),
    ),
    "layers.Denoiser": (
        Preconditioned(inner, PROCESS, EDMPreconditioning(0.5), call=Keywords(), label=NoiseLevel()),
        scaled_denoiser(inner, 0.5, lambda s: s),
    ),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_k_diffusion_s_samplers(name):
    loop, method, settings = SAMPLERS[name]
    model, by_hand = DENOISERS["a denoiser"]
    plan = method.plan(PROCESS, GRID)
    cond = torch.randn(3, 4, requires_grad=True)
    x, noise = start(SIGMA_MAX), torch.randn(max(plan.slots, 1), 3, 4)
    assert torch.allclose(GRID.times(PROCESS), SIGMAS, rtol=1e-12, atol=0)
    want = loop(by_hand, x, SIGMAS, noise, **settings, cond=cond)
    noise = GivenNoise(noise) if plan.slots else None
    check_line(model, plan, want, x, [cond], {"cond": cond}, noise)


@pytest.mark.parametrize("name", DENOISERS)
def test_k_diffusion_s_denoisers(name):
    """No level of the sampler's is one of the table's; below its first the wrapper keeps the first index."""
    model, by_hand = DENOISERS[name]
    context = torch.randn(3, 4, requires_grad=True)
    cond = {"context" if "CompVis" in name else "cond": context}
    if "CompVis" in name:
        sigmas = get_sigmas_karras(7, 0.03, float(LOG_SIGMAS[-1].exp()) * 0.999)
        assert float(sigmas[-2]) < float(LOG_SIGMAS[0].exp())
    else:
        sigmas = SIGMAS
    x = start(float(sigmas[0]))
    plan = DPMSolverPP(2).plan(PROCESS, sigmas)
    want = sample_dpmpp_2m(by_hand, x, sigmas, **cond)
    check_line(model, plan, want, x, [context], cond)
    if "quantize" not in name:
        times = (0.08, 0.7, 4.0) if "CompVis" in name else TIMES
        law = own if name == "a denoiser" else model.networks().__next__()
        assert_denoises(model, law, times, cond, context.detach())


def test_a_table_s_own_levels_are_its_indices():
    """Between two as k-diffusion has it, in whatever dtype the state is, and differentiable."""
    label, t = LevelIndex(), torch.linspace(-1, T - 1, 97)
    assert torch.equal(label(torch.arange(T).double(), TABLE), torch.arange(T).double())
    levels = TABLE.sigma(t) / TABLE.alpha(t)
    assert torch.allclose(label(t[1:], TABLE), sigma_to_t(levels[1:], False), rtol=0, atol=1e-10)
    assert torch.equal(Nearest(label)(t[1:], TABLE), sigma_to_t(levels[1:], True))
    assert label(t.float(), TABLE).dtype == torch.float32 and bool((label(t, TABLE)[:5] == 0).all())
    clean = DiscreteVP(torch.cat([ACP[:-1], torch.zeros(1)]))  # zero terminal SNR
    assert torch.allclose(label(t[t > T - 2], clean), t[t > T - 2])
    moved = torch.tensor([3.3, 7.8], requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: label(v, TABLE), moved)
    table = nn.Embedding(T, 4)
    looked_up = Denoiser(lambda x, t: x + table(t), TABLE, NOISE, label=WholeLabels(Nearest(label)))
    looked_up.check_times(torch.tensor([3.3]))
    with pytest.raises(ValueError, match="LevelIndex: got VP.*expected a DiscreteVP"):
        label(t, VP())


def test_k_diffusion_s_guided_denoiser():
    """CFGDenoiser as it is, with gradients at its scale, and the same by ClassifierFree in one call."""

    class CFGDenoiser(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.inner_model = model

        def forward(self, x, sigma, uncond, cond, cond_scale):
            both = self.inner_model(
                torch.cat([x] * 2), torch.cat([sigma] * 2), cond=torch.cat([uncond, cond])
            )
            uncond, cond = both.chunk(2)
            return uncond + (cond - uncond) * cond_scale

    guided = CFGDenoiser(own)
    uncond, cond = torch.randn(2, 3, 4, requires_grad=True)
    scale, x = torch.tensor(3.0, requires_grad=True), start(SIGMA_MAX)
    plan = DPMSolverPP(2).plan(PROCESS, GRID)
    want = sample_dpmpp_2m(guided, x, SIGMAS, uncond=uncond, cond=cond, cond_scale=scale)
    given = {"uncond": uncond, "cond": cond, "cond_scale": scale}
    check_line(Denoiser(guided, PROCESS, DATA, call=Keywords()), plan, want, x, [scale], given)
    plain = Denoiser(own, PROCESS, DATA, call=Keywords())
    ours = ClassifierFree(plain, scale, {"cond": uncond}, Passes.ONE)
    check_line(ours, plan, want, x, [], {"cond": cond})


# NVlabs: EDM and EDM2
# ------------------------------------------------------------------------------------------


class EDMPrecond(nn.Module):
    """The pickled object: (x, sigma, class_labels) -> D, with the raw network inside."""

    def __init__(self):
        super().__init__()
        self.model = Inner(lambda c_noise: (4 * c_noise).exp())

    def forward(self, x, sigma, class_labels=None, force_fp32=False):
        sigma = sigma.reshape(-1, 1)
        c_skip = 0.25 / (sigma**2 + 0.25)
        c_out, c_in = sigma * 0.5 / (sigma**2 + 0.25).sqrt(), 1 / (0.25 + sigma**2).sqrt()
        F_x = self.model(c_in * x, sigma.log().flatten() / 4, class_labels)
        return c_skip * x + c_out * F_x


def edm_sampler(net, latents, class_labels, noise, n=7, s_churn=3.0, s_min=0.05, s_max=10.0, s_noise=1.003):
    steps = torch.arange(n)
    t = (SIGMA_MAX ** (1 / 7) + steps / (n - 1) * (0.03 ** (1 / 7) - SIGMA_MAX ** (1 / 7))) ** 7
    t, drawn, x_next = torch.cat([t, torch.zeros(1)]), 0, latents
    for i, (now, after) in enumerate(zip(t[:-1], t[1:], strict=True)):
        gamma = min(s_churn / n, math.sqrt(2) - 1) if s_min <= now <= s_max else 0.0
        t_hat = now + gamma * now
        x_hat = x_next
        if gamma:
            x_hat = x_next + (t_hat**2 - now**2).sqrt() * s_noise * noise[drawn]
            drawn += 1
        d_cur = (x_hat - net(x_hat, t_hat.expand(len(x_hat)), class_labels)) / t_hat
        x_next = x_hat + (after - t_hat) * d_cur
        if i < n - 1:
            d_prime = (x_next - net(x_next, after.expand(len(x_next)), class_labels)) / after
            x_next = x_hat + (after - t_hat) * (0.5 * d_cur + 0.5 * d_prime)
    return x_next


@pytest.mark.parametrize("labels", [None, torch.eye(4)[:3]], ids=["no classes", "one-hot classes"])
def test_edm_s_networks_whole_and_raw(labels):
    net = EDMPrecond()
    plan = EDMHeun(churn=3.0, s_min=0.05, s_max=10.0, s_noise=1.003).plan(PROCESS, GRID)
    x, noise = start(SIGMA_MAX), torch.randn(plan.slots, 3, 4)
    want = edm_sampler(net, x, labels, noise)
    for model in (Denoiser(net, PROCESS, DATA), Preconditioned(net.model, PROCESS)):
        check_line(model, plan, want, x, [], labels, GivenNoise(noise))
        assert_denoises(model, net.model, TIMES, labels, 0.0 if labels is None else labels)


def test_edm2_s_guidance_by_a_second_network():
    """Karras et al. 2024, arXiv 2406.02507: ref.lerp(D, guidance), the weights of both found behind the line."""
    net, gnet, labels, x = EDMPrecond(), EDMPrecond(), torch.eye(4)[:3], start(SIGMA_MAX)
    gnet.model.deviation.data *= 1.2
    model = Denoiser(lambda x, sigma, c: gnet(x, sigma).lerp(net(x, sigma, c), 1.8), PROCESS, DATA)
    want = sample_heun(lambda x, s: gnet(x, s).lerp(net(x, s, labels), 1.8), x, SIGMAS)
    check_line(model, EDMHeun().plan(PROCESS, GRID), want, x, [], labels)
    assert len(list(model.parameters())) == 6


# ComfyUI
# ------------------------------------------------------------------------------------------


class EPS:
    """model_sampling of a table: sigma outside, a float index within."""

    def timestep(self, sigma):
        return (sigma.log() - LOG_SIGMAS[:, None]).abs().argmin(dim=0).view(sigma.shape).to(sigma)

    def calculate_input(self, sigma, noise):
        return noise / (sigma[:, None] ** 2 + 1.0) ** 0.5

    def calculate_denoised(self, sigma, model_output, model_input):
        return model_input - model_output * sigma[:, None]


class CONST(EPS):
    """model_sampling of flows: x = (1 - sigma) x0 + sigma eps, the network told 1000 sigma."""

    def timestep(self, sigma):
        return sigma * 1000

    def calculate_input(self, sigma, noise):
        return noise


class Velocity(Law):
    """(x, 1000 sigma, context) -> eps - x0."""

    def forward(self, x, t, context=0.0):
        s = (t / 1000)[:, None]
        return self.noise(x, 1 - s, s, context) - self.data(x, 1 - s, s, context)


class BaseModel(nn.Module):
    def __init__(self, diffusion_model, model_sampling):
        super().__init__()
        self.diffusion_model, self.model_sampling = diffusion_model, model_sampling

    def apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None):
        xc = self.model_sampling.calculate_input(t, x)
        out = self.diffusion_model(xc, self.model_sampling.timestep(t), context=c_crossattn)
        return self.model_sampling.calculate_denoised(t, out, x)


def wrapper(apply_model, args):
    """A model_function_wrapper: here it halves what is unconditional, to see that it is told which is which."""
    out = apply_model(args["input"], args["timestep"], **args["c"])
    parts = out.chunk(len(args["cond_or_uncond"]))
    return torch.cat([0.5 * p if k == 1 else p for p, k in zip(parts, args["cond_or_uncond"], strict=True)])


def calc_cond_batch(model, x, sigma, uncond, cond, wrapped):
    """Both in one batch, as `samplers.calc_cond_batch` makes it of equal areas."""
    c = {"c_crossattn": torch.cat([uncond, cond]), "transformer_options": {"cond_or_uncond": [1, 0]}}
    args = {
        "input": torch.cat([x, x]),
        "timestep": torch.cat([sigma, sigma]),
        "c": c,
        "cond_or_uncond": [1, 0],
    }
    out = (
        wrapper(model.apply_model, args)
        if wrapped
        else model.apply_model(args["input"], args["timestep"], **c)
    )
    return out.chunk(2)


class CFGGuider(nn.Module):
    """(x, sigma, model_options, seed) -> denoised."""

    def __init__(self, model, uncond, cond, scale, wrapped=False):
        super().__init__()
        self.inner_model, self.wrapped = model, wrapped
        self.uncond, self.cond, self.cfg = uncond, cond, scale

    def forward(self, x, sigma, model_options=None, seed=None):
        uncond, cond = calc_cond_batch(self.inner_model, x, sigma, self.uncond, self.cond, self.wrapped)
        return uncond + (cond - uncond) * self.cfg


def test_comfyui_s_model_function():
    """apply_model, one under a wrapper, the raw network, and a guider whose extra_args are no tensors."""
    model, plan = BaseModel(Table(), EPS()), DPMSolverPP(2).plan(PROCESS, GRID)
    (uncond, cond), x = torch.randn(2, 3, 4, requires_grad=True), start(SIGMA_MAX)
    crossattn = {"c_crossattn": cond}
    want = sample_dpmpp_2m(model.apply_model, x, SIGMAS, **crossattn)
    check_line(Denoiser(model.apply_model, PROCESS, DATA, call=Keywords()), plan, want, x, [], crossattn)
    within = OnProcess(
        Denoiser(model.diffusion_model, TABLE, NOISE, call=Keywords(), label=Nearest(LevelIndex())), PROCESS
    )
    low = DPMSolverPP(2).plan(PROCESS, SIGMAS[2:])
    wanted = sample_dpmpp_2m(model.apply_model, x, SIGMAS[2:], **crossattn)
    check_line(within, low, wanted, x, [], {"context": cond})

    for which, factor in ((0, 1.0), (1, 0.5)):
        call = lambda apply_model, x, t, c, which=which: wrapper(  # noqa: E731
            apply_model, {"input": x, "timestep": t, "c": c, "cond_or_uncond": [which]}
        )
        wanted = sample_dpmpp_2m(
            lambda *a, f=factor, **c: f * model.apply_model(*a, **c), x, SIGMAS, **crossattn
        )
        check_line(Denoiser(model.apply_model, PROCESS, DATA, call=call), plan, wanted, x, [], crossattn)

    for wrapped in (False, True):
        guider = CFGGuider(model, uncond.detach(), cond.detach(), 3.0, wrapped)
        extra_args = {"model_options": {"transformer_options": {}, "disable": True}, "seed": 7}
        wanted = sample_dpmpp_2m(guider, x, SIGMAS, **extra_args)
        check_line(Denoiser(guider, PROCESS, DATA, call=Keywords()), plan, wanted, x, [], extra_args)
    ours = ClassifierFree(
        Denoiser(model.apply_model, PROCESS, DATA, call=Keywords()), 3.0, {"c_crossattn": uncond}, Passes.ONE
    )
    wanted = sample_dpmpp_2m(CFGGuider(model, uncond, cond, 3.0), x, SIGMAS)
    check_line(ours, plan, wanted, x, [uncond, cond], crossattn)


def test_comfyui_s_flows():
    """sigma is the time; the sampler is the same Euler, and its grid the shifted one."""
    model, flow = BaseModel(Velocity(), CONST()), RectifiedFlow()
    cond, x, s = torch.randn(3, 4, requires_grad=True), start(), torch.linspace(1, 0, 7)
    sigmas = 3.0 * s / (1 + 2.0 * s)
    want = sample_euler(model.apply_model, x, sigmas, c_crossattn=cond)
    plan = FlowEuler().plan(flow, Shifted(6, shift=3.0))
    lines = {
        "c_crossattn": Denoiser(model.apply_model, flow, DATA, call=Keywords()),
        "context": Denoiser(model.diffusion_model, flow, FLOW, call=Keywords(), label=Scaled(1000.0)),
    }
    for key, line in lines.items():
        check_line(line, plan, want, x, [cond], {key: cond})
        assert_denoises(line, model.diffusion_model, (0.05, 0.5, 1.0), {key: cond}, cond.detach())


def test_a_scale_for_each_step_reaches_a_guider_by_name():
    """PerStep works inside extra_args too."""
    scales, x = torch.linspace(1.0, 3.0, 7).requires_grad_(), start(SIGMA_MAX)
    values, cond = iter(scales), torch.randn(3, 4)
    guided = lambda x, sigma, cond, scale: own(x, sigma) + scale * (own(x, sigma, cond) - own(x, sigma))  # noqa: E731
    want = sample_euler(lambda x, s: guided(x, s, cond, next(values)), x, SIGMAS)
    model, plan = Denoiser(guided, PROCESS, DATA, call=Keywords()), DDIM().plan(PROCESS, GRID)
    got = sample(model, plan, x, cond={"cond": cond, "scale": PerStep(scales)})
    pair = [torch.autograd.grad(out.square().sum(), [x, scales]) for out in (got, want)]
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(*pair, strict=True))
