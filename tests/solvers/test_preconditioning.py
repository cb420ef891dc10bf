"""EDM's networks as they are: the published grid and recursions written out, and what a raw network is trained to."""

import math

import pytest
import torch
from problems import MIXTURE, PROCESS
from torch import nn

from pullback.adjoint import Checkpoint, Direct, sample
from pullback.solvers import (
    DATA,
    EDM,
    NOISE,
    VE,
    VP,
    Denoiser,
    DiscreteVP,
    DPMSolverPP,
    EDMHeun,
    EDMPreconditioning,
    GivenNoise,
    Karras,
    LabelsAt,
    NoiseLevel,
    Preconditioned,
    RectifiedFlow,
    TrigFlowPreconditioning,
    UniformT,
    UserPair,
    VEPreconditioning,
    VPPreconditioning,
    convert,
)


class Raw(nn.Module):
    """Any smooth F(x, c_noise): it need not denoise anything for two recursions to agree."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 2))

    def forward(self, x, c_noise, shift=None):
        out = self.body(torch.cat([x, c_noise[:, None]], 1))
        return out if shift is None else out + shift


@pytest.fixture
def raw():
    torch.manual_seed(0)
    return Raw()


def edm_denoiser(raw, x, sigma, sigma_data=0.5):
    """Table 1, row EDM, in plain numbers."""
    skip = sigma_data**2 / (sigma**2 + sigma_data**2)
    out = sigma * sigma_data / math.sqrt(sigma_data**2 + sigma**2)
    scale = 1 / math.sqrt(sigma**2 + sigma_data**2)
    return skip * x + out * raw(scale * x, torch.full((len(x),), math.log(sigma) / 4))


def edm_sigmas(n, low=0.002, high=80.0, rho=7):
    """Eq. 5: t_0 .. t_{N-1}, and t_N = 0."""
    levels = [
        (high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho for i in range(n)
    ]
    return [*levels, 0.0]


def edm_sampler(raw, x, n, noise=(), churn=0.0, s_min=0.0, s_max=math.inf, s_noise=1.0):
    """Algorithm 2; algorithm 1 with churn = 0."""
    t, drawn = edm_sigmas(n), 0
    for i in range(n):
        gamma = min(churn / n, math.sqrt(2) - 1) if s_min <= t[i] <= s_max else 0.0
        hat = t[i] + gamma * t[i]
        if gamma:
            x = x + math.sqrt(hat**2 - t[i] ** 2) * s_noise * noise[drawn]
            drawn += 1
        d = (x - edm_denoiser(raw, x, hat)) / hat
        ahead = x + (t[i + 1] - hat) * d
        if t[i + 1] != 0:
            after = (ahead - edm_denoiser(raw, ahead, t[i + 1])) / t[i + 1]
            ahead = x + (t[i + 1] - hat) * (d + after) / 2
        x = ahead
    return x


def test_the_default_grid_on_edm_is_the_published_one():
    for n in (2, 18, 40):
        assert torch.allclose(Karras(n).times(EDM()), torch.tensor(edm_sigmas(n)), rtol=1e-12, atol=0)
    assert Karras(1).times(EDM()).tolist() == [80.0, 0.0]
    got = Karras(9, low=0.01, rho=5.0).times(EDM(t_max=50.0))
    assert torch.allclose(got, torch.tensor(edm_sigmas(9, 0.01, 50.0, 5)), rtol=1e-12, atol=0)
    assert torch.allclose(Karras(4, end=0.002).times(EDM()), Karras(5).times(EDM())[:-1], rtol=1e-12, atol=0)


def test_where_a_table_begins_its_grid_ends():
    table = DiscreteVP(torch.linspace(0.999, 0.01, 50, dtype=torch.float64))
    times = Karras(6).times(table)
    assert times[-1] == -1.0 and times[0] == 49.0 and abs(float(times[-2])) < 1e-9
    with pytest.raises(ValueError, match="expected finite ends"):
        Karras(6).times(VP())
    assert float(VP().lam(Karras(6, low=0.01).times(VP())[-2])) == pytest.approx(math.log(100), rel=1e-9)


@pytest.mark.parametrize("n", [2, 18])
def test_heun_is_algorithm_1(raw, n):
    x = 80 * torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    model = Preconditioned(raw, EDM())
    plan = EDMHeun().plan(EDM(), Karras(n))
    assert plan.nfe == 2 * n - 1
    with torch.no_grad():
        wanted, got = edm_sampler(raw, x, n), sample(model, plan, x, gradient=None)
    assert (got - wanted).abs().max() <= 1e-12 * wanted.abs().max()


@pytest.mark.parametrize(
    "process, bounds",
    [(EDM(), {"s_min": 0.05, "s_max": 50.0}), (EDM(t_max=120.0), {})],
    ids=["a band", "room above 80"],
)
def test_churn_is_algorithm_2(raw, process, bounds):
    """Where noise is added at 80 itself, the process must reach above it."""
    settings = {"churn": 40.0, "s_noise": 1.003, **bounds}
    plan = EDMHeun(**settings).plan(process, Karras(18, start=80.0))
    x, noise = 80 * torch.randn(5, 2), torch.randn(plan.slots, 5, 2)
    with torch.no_grad():
        wanted = edm_sampler(raw, x, 18, noise, **settings)
        got = sample(Preconditioned(raw, process), plan, x, noise=GivenNoise(noise), gradient=None)
    assert (got - wanted).abs().max() <= 1e-12 * wanted.abs().max()


TRIG = UserPair(torch.cos, lambda t: 0.7 * torch.sin(t), 0.0, math.pi / 2)
PUBLISHED = {
    # sCM, arXiv 2410.11081, in its own angle: x_t = cos(t) x_0 + sin(t) z, z ~ N(0, s^2)
    "sCM": (
        TrigFlowPreconditioning(0.7),
        TRIG,
        lambda raw, x, t: math.cos(t) * x - math.sin(t) * 0.7 * raw(x / 0.7, torch.full((len(x),), t)),
    ),
    "VE": (
        VEPreconditioning(),
        EDM(),
        lambda raw, x, s: x + s * raw(x, torch.full((len(x),), math.log(0.5 * s))),
    ),
    # sigma^-1(sigma) of table 1, by its own closed form
    "VP": (
        VPPreconditioning(),
        EDM(),
        lambda raw, x, s: (
            x
            - s
            * raw(
                x / math.sqrt(s**2 + 1),
                torch.full((len(x),), 999 * (math.sqrt(0.01 + 2 * 19.9 * math.log(1 + s**2)) - 0.1) / 19.9),
            )
        ),
    ),
    "EDM": (EDMPreconditioning(), EDM(), edm_denoiser),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_is_its_row_of_the_table(raw, name):
    how, process, by_hand = PUBLISHED[name]
    x = torch.randn(4, 2)
    model = Preconditioned(raw, process, how)
    for t in (0.01, 0.4, 1.3):
        wanted = by_hand(raw, x, t)
        assert torch.allclose(model(x, torch.full((4,), t)), wanted, rtol=1e-12, atol=1e-12)


def test_a_network_of_eps_under_vp_is_the_same_as_it_is_and_preconditioned(raw):
    """Score SDE's network at its own time, and the same weights seen from EDM's side."""
    plain = Denoiser(raw, VP(), NOISE, label=lambda t, process: 999 * t)
    t = torch.tensor([0.2, 0.9])
    x = torch.randn(2, 2)
    wanted = convert(plain(x, t), x, NOISE, DATA, VP(), t)
    rho = VP().sigma(t) / VP().alpha(t)
    got = Preconditioned(raw, EDM(t_max=200.0), VPPreconditioning())(x / VP().alpha(t)[:, None], rho)
    assert torch.allclose(got, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "how", [EDMPreconditioning(0.8), TrigFlowPreconditioning(0.8), VEPreconditioning()], ids=str
)
@pytest.mark.parametrize("process", [EDM(), VP(), RectifiedFlow(), VE()], ids=str)
def test_on_any_process_the_denoiser_of_a_perfect_network_is_exact(how, process):
    """The target of F, learned perfectly, gives E[x_0 | x] back."""

    def perfect(x, c_noise):  # in EDM's own variables, from c_noise alone
        rho = {
            EDMPreconditioning: lambda: (4 * c_noise).exp(),
            TrigFlowPreconditioning: lambda: 0.8 * c_noise.tan(),
            VEPreconditioning: lambda: 2 * c_noise.exp(),
        }[type(how)]()
        y = x / how.scales(rho)[2][:, None]
        return Preconditioned(perfect, EDM(), how).target(MIXTURE.denoise(y, 1.0, rho), y, rho)

    t = process.time(torch.tensor([2.0, 0.0, -1.5]))
    x = torch.randn(3, 2)
    got = Preconditioned(perfect, process, how)(x, t)
    assert torch.allclose(got, MIXTURE.denoise(x, process.alpha(t), process.sigma(t)), rtol=1e-9, atol=1e-9)


def test_targets_have_unit_variance_under_edm():
    """For data of deviation sigma_data, whatever the level: what the table is made for."""
    how, generator = EDMPreconditioning(0.5), torch.Generator().manual_seed(0)
    x0 = 0.5 * torch.randn(100_000, 1, generator=generator)
    for sigma in (0.01, 0.5, 30.0):
        x = x0 + sigma * torch.randn(x0.shape, generator=generator)
        t = torch.full((len(x),), sigma)
        model = Preconditioned(lambda x, t: x, EDM(), how)
        assert float(model.target(x0, x, t).var()) == pytest.approx(1.0, abs=0.02)
        assert float((how.scales(t)[2][:, None] * x).var()) == pytest.approx(1.0, abs=0.02)


def test_gradients_reach_input_conditioning_and_weights(raw):
    model = Preconditioned(raw, PROCESS)
    plan = DPMSolverPP(2).plan(PROCESS, Karras(5, low=0.05))
    x, shift = torch.randn(3, 2, requires_grad=True), torch.randn(2, requires_grad=True)
    inputs = [x, shift, *model.parameters()]
    assert len(inputs) == 6 and raw in list(model.networks())
    got, want = (
        torch.autograd.grad(sample(model, plan, x, cond=shift, gradient=g).square().sum(), inputs)
        for g in (Checkpoint(), Direct())
    )
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(got, want, strict=True))


def test_half_precision_is_scaled_outside(raw):
    """1/S x is of unit size for bf16 where x itself is not, and the state stays float32."""
    seen = []

    def network(x, c_noise):
        seen.append((x.dtype, float(x.abs().max()), c_noise.dtype))
        return x

    model = Preconditioned(network, EDM(), dtype=torch.bfloat16)
    out = model(torch.full((2, 3), 80.0, dtype=torch.float32), torch.full((2,), 80.0, dtype=torch.float32))
    assert out.dtype == torch.float32
    assert (
        seen[0][0] == torch.bfloat16
        and seen[0][1] == pytest.approx(1, abs=0.01)
        and seen[0][2] == torch.float32
    )


def test_another_network_in_the_same_frame(raw):
    model = Preconditioned(raw, VP(), VPPreconditioning())
    other = model.around(lambda x, t: 0 * x)
    assert other.process == VP() and other.preconditioning == VPPreconditioning()
    x, t = torch.randn(2, 2), torch.full((2,), 0.5)
    assert torch.allclose(other(x, t), x / VP().alpha(0.5))
    told = Preconditioned(raw, EDM(), label=NoiseLevel()).around(lambda x, t: 0 * x + t[:, None])
    scaled = t / (t**2 + 0.25).sqrt() * 0.5  # c_out, of F = sigma
    assert torch.allclose(told(0 * x, t), (scaled * t)[:, None].expand(2, 2))


def test_a_label_of_its_own_is_checked_before_a_run(raw):
    model = Preconditioned(raw, EDM(), label=LabelsAt([80.0, 1.0], [3.0, 1.0]))
    sample(model, DPMSolverPP(2).plan(EDM(), [80.0, 1.0, 0.0]), torch.randn(2, 2))
    with pytest.raises(ValueError, match="LabelsAt: got a network call at t=2,"):
        sample(model, DPMSolverPP(2).plan(EDM(), [80.0, 2.0, 0.0]), torch.randn(2, 2))


@pytest.mark.parametrize("process, grid", [(EDM(), [0.0, 1.0, 2.0]), (RectifiedFlow(), UniformT(3))], ids=str)
def test_calls_at_an_infinite_level_are_refused(raw, process, grid):
    plan = DPMSolverPP(2).along(process, grid)
    with pytest.raises(ValueError, match="network call at t=.*expected a positive finite level"):
        sample(Preconditioned(raw, process), plan, torch.randn(2, 2))


def test_the_label_of_any_vp_is_its_own_time():
    """c_noise of a network trained with other betas and another number of labels, at the rho of its own process."""
    process, t = VP(0.2, 12.0), torch.tensor([0.05, 0.4, 0.9])
    told = VPPreconditioning(0.2, 12.0, 500.0).told(process.sigma(t) / process.alpha(t))
    assert torch.allclose(told, 499.0 * t, rtol=1e-9)
