"""Every guide as it comes, on priors narrow, white and wide: none diverges, and a run that does is an error."""

import warnings
from collections.abc import Callable

import pytest
import torch
from guides import ENDS, MATRIX, MODEL, PROCESS, SEEN, Spy, Y

from pullback.adjoint import sample
from pullback.guidance import (
    DAPS,
    DDNM,
    DPS,
    LGD,
    MCG,
    MPGD,
    TFG,
    TMPD,
    Bayes,
    Damped,
    DataGuidance,
    DiffPIR,
    FlowChef,
    FreeDoM,
    Greedy,
    Guide,
    Lookahead,
    Mask,
    Matrix,
    Measurement,
    PiGDM,
    PiGDMWeight,
    Raw,
    REDdiff,
    Shell,
    Tweedie,
    Universal,
    smc,
    starting_particles,
    steer,
)
from pullback.guidance.guides.state_limits import StateLimits
from pullback.solvers import (
    DDIM,
    DDPM,
    EDM,
    VE,
    VP,
    Addressed,
    DPMSolverPP,
    FlowEuler,
    Gaussian,
    Mixture,
    RectifiedFlow,
    UniformLambda,
    UniformT,
)

X = torch.randn(4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
ODE = DDIM().plan(PROCESS, UniformLambda(6, **ENDS))
LONG = UniformLambda(12, start=0.999, end=0.002)

# as they come: nothing is passed but the problem
DEFAULTS: list[Callable[[Measurement], Guide]] = [
    DAPS, DDNM, DPS, DiffPIR, FlowChef, FreeDoM, Greedy, MCG, MPGD, PiGDM, TMPD, Universal,
    TFG.dps, TFG.freedom, TFG.mpgd, TFG.universal,
]  # fmt: skip
IN_NATS = [
    DataGuidance, FlowChef, FreeDoM, Greedy, LGD, Lookahead, MPGD, REDdiff, Universal,
    TFG.freedom, TFG.lgd, TFG.mpgd, TFG.universal,
]  # fmt: skip
ALL = [pytest.param(make, id=f"{make.__qualname__}(m)") for make in DEFAULTS]
ALL += [
    pytest.param(lambda m, make=make: make(m.nats), id=f"{make.__qualname__}(m.nats)") for make in IN_NATS
]


def masked(prior, std, physics=None):
    """A prior in six dimensions, the second of its draws with three numbers seen of it, and the exact posterior."""
    mask = torch.tensor([1.0, 0, 1, 0, 0, 1])
    truth = prior.sample(2, torch.Generator().manual_seed(3))[1:]
    y = mask * (truth + std * torch.randn(1, 6, generator=torch.Generator().manual_seed(4)))
    kept = torch.eye(6)[mask > 0]
    return prior, Measurement(Mask(mask), y, std), prior.posterior(kept, (y @ kept.T)[0], std)


def rotated(low, high):
    q = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(5)))[0]
    return q @ torch.diag(torch.linspace(low, high, 6)) @ q.T


def problems():
    modes = 1.5 * torch.randn(4, 6, generator=torch.Generator().manual_seed(6))
    return {
        "near white, s = 0.05": masked(Gaussian(torch.zeros(6), rotated(0.8, 1.25)), 0.05),
        "four modes": masked(Mixture.isotropic(torch.ones(4) / 4, modes, 0.16), 0.05),
        "narrow": masked(Gaussian(torch.zeros(6), 0.01), 0.01),
        "wide": masked(Gaussian(torch.zeros(6), 100.0), 0.1),
    }


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("kind", ["near white, s = 0.05", "four modes", "narrow", "wide"])
def test_no_default_diverges(make, kind):
    """No farther from the posterior mean than twice as far as draws of the prior; the old defaults reached 1e20
    to 1e139. DPS's published step has a fixed length, 2 |J|, which a narrow prior feels.
    """
    prior, seen, posterior = problems()[kind]
    plan, x = DDIM(1.0).plan(PROCESS, LONG), torch.randn(6, 6)
    model = prior.denoiser(PROCESS)
    plain = sample(model, plan, x, noise=Addressed(1), gradient=None)
    found = steer(model, plan, x, make(seen), noise=Addressed(1)).sample
    error, before = ((x - posterior.mean).square().mean().sqrt() for x in (found, plain))
    bound = 12.0 if kind == "narrow" and isinstance(make(seen), DPS | TFG) else 2.0
    assert float(error) < bound * float(before), f"{float(error):.3g}, the prior {float(before):.3g}"


# the policies behind them
# -------------------------------------------------------------------------------------------------------------


def damped(loss):
    return DataGuidance(loss, Damped(Raw()))


@pytest.mark.parametrize("std", [0.01, 0.3, 5.0])
def test_the_damped_policy_is_bayes_rule_for_one_number(std):
    """E[x_0 given x_t, y] of Gaussian data of any covariance, from `nats` alone: nothing to choose."""
    half = torch.randn(4, 4)
    prior = Gaussian(torch.randn(4), half @ half.T)
    seen = Measurement(Matrix(MATRIX[:1]), Y[:, :1], std)
    posterior = prior.posterior(MATRIX[:1], Y[0, :1], std)
    checked = []

    def look(ctx):
        got = damped(seen.nats).data(ctx, ctx.data)
        a, s = (float(v.flatten()[0]) for v in (ctx.alpha, ctx.sigma))
        assert torch.allclose(got, posterior.denoise(ctx.x.detach(), a, s), atol=1e-9)
        checked.append(1)

    steer(prior.denoiser(PROCESS), ODE, X, Spy(look))
    assert len(checked) == 6


def test_a_loss_grown_without_bound_is_met_and_not_passed():
    """As 1/s^2 grows the damped correction tends to the one of no noise; Bayes' undamped one without bound."""
    prior = Gaussian(torch.zeros(4), 1.0)
    results = []

    def look(ctx):
        for std in (1e-3, 1e-6):
            seen = Measurement(Matrix(MATRIX[:1]), Y[:, :1], std)
            results.append(seen.residual(damped(seen.nats).data(ctx, ctx.data)).abs().max())

    steer(prior.denoiser(PROCESS), DDIM().plan(PROCESS, UniformLambda(1, **ENDS)), X, Spy(look))
    assert float(results[0]) < 1e-4 and float(results[1]) < 1e-9


def test_damped_guidance_wants_a_loss_of_at_least_zero():
    with pytest.raises(
        ValueError, match=r"loss: got -\d.*expected at least 0.*add a constant, or choose another"
    ):
        steer(MODEL, ODE, X, LGD(lambda x: -x.square().sum(1)), draws=Addressed(1))
    zero = steer(MODEL, ODE, X, LGD(lambda x: 0 * x.sum(1)), draws=Addressed(1)).sample
    assert torch.equal(zero, sample(MODEL, ODE, X, gradient=None))


def test_shell_keeps_the_state_where_its_noise_may_have_put_it():
    states = []
    guide = FlowChef(SEEN, Shell(Raw(1e6)))
    steer(MODEL, ODE, X, guide, callback=lambda k, t, x: states.append(x))
    for k in range(2):
        one = DDIM().plan(PROCESS, torch.tensor(ODE.times[k : k + 2]))
        moved = (states[k + 1] - sample(MODEL, one, states[k], gradient=None)).norm(dim=1)
        assert torch.allclose(moved, 2 * PROCESS.sigma(torch.tensor(ODE.times[k + 1])))  # sqrt(d) = 2
    gentle = (FlowChef(SEEN, Shell(Raw(1e-4))), FlowChef(SEEN, Raw(1e-4)))
    assert torch.equal(*(steer(MODEL, ODE, X, g).sample for g in gentle))


def test_pigdms_published_weight_moves_the_state_by_alpha_r2_g():
    """Song et al., algorithm 1, written out: x_s = DDIM(x_t, D) + alpha r^2 J^T A^T (r^2 A A^T + s^2)^-1 (y - A D)."""
    states, x = [X], X.clone().requires_grad_()
    steer(MODEL, ODE, X, PiGDM(SEEN, policy=PiGDMWeight()), callback=lambda k, t, x: states.append(x))
    t, s = (torch.tensor(v) for v in ODE.times[:2])
    a, b, a2, b2 = PROCESS.alpha(t), PROCESS.sigma(t), PROCESS.alpha(s), PROCESS.sigma(s)
    data = MODEL(x, t.expand(4))
    variance = b**2 / (a**2 + b**2)
    inverse = torch.linalg.inv(variance * MATRIX @ MATRIX.T + 0.09 * torch.eye(2))
    whitened = ((Y - data @ MATRIX.T) @ inverse).detach()
    (g,) = torch.autograd.grad((data * (whitened @ MATRIX)).sum(), x)
    want = b2 / b * X + (a2 - a * b2 / b) * data + a * variance * g
    assert torch.allclose(states[2], want.detach(), atol=1e-10)


def test_pigdm_is_capped_where_the_data_vary_more_than_it_believes():
    prior, seen, posterior = problems()["wide"]
    model, x = prior.denoiser(PROCESS), torch.randn(6, 6)
    plan = DDIM(1.0).plan(PROCESS, UniformLambda(40, start=0.999, end=0.002))
    found = steer(model, plan, x, PiGDM(seen), noise=Addressed(1)).sample
    assert float(seen.residual(found).abs().max()) < 1.0
    with pytest.raises(FloatingPointError, match="PiGDM: diverged"):
        steer(model, plan, x, PiGDM(seen, policy=Tweedie()), noise=Addressed(1))


@pytest.mark.parametrize("zeta", [0.0, 0.3, 1.0])
def test_diffpirs_published_step(zeta):
    """Algorithm 1 written out, zeta = 1 included: every bit of the noise fresh. zeta = 0 is DDIM's step from D'."""
    guide, draws = DiffPIR(SEEN, lam=3.0, zeta=zeta), Addressed(7, stream=1)
    found = steer(MODEL, ODE, X, guide, draws=draws).sample
    x, times = X, torch.tensor(ODE.times)
    for k, (t, s) in enumerate(zip(times[:-1], times[1:], strict=True)):
        a, b, a2, b2 = PROCESS.alpha(t), PROCESS.sigma(t), PROCESS.alpha(s), PROCESS.sigma(s)
        data = MODEL(x, t.expand(4))
        inverse = torch.linalg.inv(MATRIX @ MATRIX.T + 0.09 * 3.0 * (a / b) ** 2 * torch.eye(2))
        data = data + (Y - data @ MATRIX.T) @ inverse @ MATRIX
        eps = (x - a * data) / b
        x = a2 * data + b2 * ((1 - zeta) ** 0.5 * eps + zeta**0.5 * draws(k << 40, X))
    assert torch.allclose(found, x, atol=1e-10)
    if zeta == 0.0:
        assert torch.allclose(found, steer(MODEL, ODE, X, DiffPIR(SEEN, lam=3.0)).sample, atol=1e-10)


def test_tmpd_pays_for_observed_numbers_only():
    """Three of 8 x 8 pixels: three VJPs a call, and the same correction as by the matrix of those three rows."""
    mask, prior = torch.zeros(8, 8), Gaussian(torch.zeros(64), 0.5 * torch.eye(64) + 0.5)
    mask[0, 3] = mask[4, 4] = mask[7, 0] = 1.0
    model, x, y = prior.denoiser(PROCESS), torch.randn(2, 64), mask.flatten() * torch.randn(2, 64)
    hidden = Measurement(Mask(mask.flatten()), y + 0.1 * torch.randn(2, 64), 0.1)
    seen = Measurement(Matrix(torch.eye(64)[mask.flatten() > 0]), hidden.y[:, mask.flatten() > 0], 0.1)
    whole, three = (steer(model, ODE, x, TMPD(m)) for m in (hidden, seen))
    assert whole.vjps == three.vjps == 3 * ODE.nfe
    assert torch.allclose(whole.sample, three.sample, atol=1e-10)
    with pytest.raises(ValueError, match="TMPD: got 0 measured numbers"):
        steer(model, ODE, x, TMPD(Measurement(Mask(0 * mask.flatten()), y, 0.1)))


# a run that diverges is an error
# -------------------------------------------------------------------------------------------------------------

WILD = [
    (lambda m: LGD(m.nats, policy=Bayes()), "LGD"),
    (lambda m: Lookahead(m.nats, policy=Bayes()), "Lookahead"),
    (lambda m: DataGuidance(m.nats, Raw()), "DataGuidance"),
    (lambda m: MPGD(m.nats, Raw()), "MPGD"),
    (lambda m: TMPD(m) + FlowChef(m.nats, Raw()).during(0.3), r"TMPD \+ FlowChef"),
    (lambda m: Universal(m.nats, Raw(), Raw()), "Universal"),
]


@pytest.mark.parametrize("make, name", WILD, ids=[name for _, name in WILD])
def test_a_run_that_diverges_is_an_error_and_no_sample(make, name):
    """The published weights, which are there to be chosen, on the prior where they run away."""
    prior, seen, _ = problems()["near white, s = 0.05"]
    plan = DDIM(1.0).plan(PROCESS, UniformLambda(40, start=0.999, end=0.002))
    words = (
        rf"{name}: diverged at step \d+ \(t=0.*expected at most 100; lower the guide's scale, choose a policy"
    )
    with pytest.raises(FloatingPointError, match=words):
        steer(prior.denoiser(PROCESS), plan, torch.randn(6, 6), make(seen), noise=Addressed(1))


def test_smc_names_a_proposal_that_diverges():
    prior, seen, _ = problems()["near white, s = 0.05"]
    plan, noise = (
        DDIM(1.0).plan(PROCESS, UniformLambda(40, start=0.999, end=0.002)),
        Addressed(1, samples=[0]),
    )
    x, model = starting_particles(noise, torch.zeros(1, 6), 8), prior.denoiser(PROCESS)
    with pytest.raises(FloatingPointError, match="proposal DataGuidance: diverged"):
        smc(model, plan, x, lambda x, context: -seen.nats(x), noise, proposal=DataGuidance(seen.nats, Raw()))


QUIET = Spy(lambda ctx: None)
SETTINGS = {
    "VP": (VP(), DDIM(), UniformLambda(6, start=1.0, end=1e-3), 1.0),
    "VP, three steps": (VP(), DPMSolverPP(2), UniformLambda(3, start=1.0, end=1e-3), 1.0),
    "VP, data ten wide": (VP(), DDIM(1.0), UniformLambda(8, start=1.0, end=1e-3), 10.0),
    "VE": (VE(), DDPM(), UniformLambda(8, start=0.99, end=0.01), 1.0),
    "EDM": (EDM(), DDIM(), UniformLambda(8, start=80.0, end=0.002), 0.5),
    "flow from alpha = 0 to sigma = 0": (RectifiedFlow(), FlowEuler(), UniformT(5, start=1.0, end=0.0), 1.0),
    "flow, data fifty wide": (RectifiedFlow(), FlowEuler(), UniformT(5, start=1.0, end=0.0), 50.0),
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_no_run_that_works_is_taken_for_one_that_diverges(kind):
    """Data wide and narrow, far from the origin, few steps, every process; exact guidance towards a far value."""
    process, method, grid, width = SETTINGS[kind]
    prior = Gaussian(width * torch.tensor([3.0, 0.0, -1.0, 0.0]), width**2)
    plan = method.plan(process, grid)
    x = process.sigma(torch.tensor(plan.times[0])) * X
    seen = Measurement(Matrix(torch.eye(4)[1:2]), torch.full((1, 1), 5 * width), 0.1 * width)
    for guide in (QUIET, TMPD(seen)):
        steer(prior.denoiser(process), plan, x, guide, noise=Addressed(1))


def test_the_limit_is_each_samples_own():
    """A sample that runs away is found among mates that do not, and named."""

    class Kick(Guide):
        def state(self, ctx, x):
            return x + 1e4 * torch.eye(4)[2:3].T if ctx.step == 3 else x

    with pytest.raises(FloatingPointError, match="Kick: diverged at step 3 .*got sample 2 "):
        steer(MODEL, ODE, X, Kick())


@pytest.mark.parametrize("part", [0.999, 1.001])
def test_the_limit_is_a_distance_from_the_prediction(part):
    limits, data = StateLimits(ODE, QUIET, keep_finite=False), torch.full((1, 4), 2.0)
    limits.begin(data)
    last = ODE.steps  # where the prediction weighs most
    state = float(limits.alphas[last]) * data
    state = state + part * limits.limits[last] * data / data.norm()
    if part < 1:
        assert torch.equal(limits.within(last - 1, state, data), state)
    else:
        with pytest.raises(FloatingPointError, match=f"diverged at step {last - 1}"):
            limits.within(last - 1, state, data)


def test_a_run_whose_prediction_runs_away_with_its_state_is_warned_of():
    """Each step near its prediction, and all of them far from any data."""

    class Away(Guide):
        def data(self, ctx, data):
            return 5 * data

    longer = DDIM().plan(PROCESS, UniformLambda(12, **ENDS))
    with pytest.warns(
        UserWarning, match="Away: got sample . .* times as large as its first prediction.*Clamp"
    ):
        steer(MODEL, longer, X, Away())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steer(MODEL, ODE, X, QUIET)
        steer(MODEL, ODE, X[:0], QUIET)
