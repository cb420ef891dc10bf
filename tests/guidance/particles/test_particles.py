"""Particles: exact weights, unbiased evidence for every K, and samples that never meet."""

import functools
import math
from collections.abc import Sequence

import pytest
import torch
from problems import PROCESS

from pullback.adjoint import PerStep, sample
from pullback.guidance import (
    DDNM,
    TMPD,
    DataGuidance,
    Difference,
    Guide,
    Matrix,
    Measurement,
    Most,
    Multinomial,
    PiGDM,
    Stratified,
    Systematic,
    Terminal,
    Total,
    Tweedie,
    best_of,
    ess,
    smc,
    starting_particles,
    svdd,
)
from pullback.guidance.particles import Discounted
from pullback.guidance.particles.layout import ParticleNoise
from pullback.solvers import (
    DATA,
    DDIM,
    DDPM,
    Addressed,
    ClassifierFree,
    Combine,
    Denoiser,
    DPMSolverPP,
    Gaussian,
    GivenTimes,
    Guided,
    Mixture,
    UniformLambda,
)

PLAN = DDPM().plan(PROCESS, UniformLambda(6, start=0.9, end=0.05))
STANDARD = Gaussian(torch.zeros(1, dtype=torch.float64), 1.0)
TWO = Mixture.isotropic(
    torch.tensor([0.7, 0.3], dtype=torch.float64), torch.tensor([[-1.5], [1.2]], dtype=torch.float64), 0.4
)
Y, STD = 0.8, 0.5


def likelihood(x, context=None):
    return -((x[:, 0] - Y) / STD).square() / 2 - math.log(STD * math.sqrt(2 * math.pi))


SEEN = Measurement(Matrix(torch.eye(1, dtype=torch.float64)), torch.full((1, 1), Y, dtype=torch.float64), STD)


@functools.cache
def grid_law(data):
    """The exact law of the plan's samples from N(0, 1), by quadrature: points and probabilities."""
    points = torch.linspace(-7, 7, 1401)
    law = torch.exp(-points.square() / 2)
    times = torch.tensor(PLAN.times)
    for op, t in zip([op for op in PLAN.instructions if isinstance(op, Combine)], times[:-1], strict=True):
        (a, _), (c, _) = op.terms
        ((std, _),) = op.noise
        assert isinstance(a, float) and isinstance(c, float) and isinstance(std, float)
        mean = a * points + c * data.denoise(points[:, None], PROCESS.alpha(t), PROCESS.sigma(t))[:, 0]
        kernel = torch.exp(-((points[:, None] - mean) / std).square() / 2) / std
        law = kernel @ law
        law /= law.sum()
    return points, law


def truth(data, reward):
    """(E[e^r], the tilted mean) of the sampler's law."""
    points, law = grid_law(data)
    weight = law * reward(points[:, None]).exp()
    return float(weight.sum()), float((weight * points).sum() / weight.sum())


class Pull(Guide):
    """The data prediction pulled towards Y: deliberately too strong, no posterior's guide."""

    def data(self, ctx, data):
        return data + 0.6 * (Y - data)


class Exact(Guide):
    """D + 0.4 tweedie grad log p(y | x_t) under the Gaussian approximation of p(x_0 | x_t). At full strength
    the weights of single particles have tails (largest 140 times the mean of 16000) that a z-test
    cannot see.
    """

    differentiates = True

    def data(self, ctx, data):
        residual = (Y - data) / (STD**2 + ctx.prior_variance)
        return data + 0.4 * ctx.tweedie * ctx.vjp(residual)


def said(options):
    """An id that is the same in every process: objects print their address."""
    values = {
        key: value if isinstance(value, float) else type(value).__name__ for key, value in options.items()
    }
    return "-".join(f"{key}={value}" for key, value in values.items()) or "plain"


def cloud(data, count, batch, first=0, **options):
    noise = Addressed(11, samples=range(first, first + batch))
    x = starting_particles(noise, torch.zeros(batch, 1, dtype=torch.float64), count)
    return smc(data.denoiser(PROCESS), PLAN, x, options.pop("reward", likelihood), noise, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"threshold": 1.0},
        {"threshold": 0.0},
        {"proposal": Pull()},
        {"proposal": Exact()},
        {"resampling": Multinomial()},
        {"resampling": Stratified(), "threshold": 0.9},
    ],
    ids=said,
)
@pytest.mark.parametrize("count, batch", [(1, 1000), (2, 600), (8, 200), (64, 40)])
def test_evidence_is_unbiased_for_every_number_of_particles(count, batch, options):
    z = cloud(TWO, count, batch, **options).log_z.exp()
    assert abs(float(z.mean()) - truth(TWO, likelihood)[0]) < 4 * float(z.std()) / batch**0.5


@pytest.mark.parametrize("threshold", [0.5, 1.0])
@pytest.mark.parametrize("proposal", [TMPD(SEEN), PiGDM(SEEN, 1.4, policy=Tweedie())], ids=["TMPD", "PiGDM"])
@pytest.mark.parametrize("count, batch", [(1, 600), (32, 80)])
def test_evidence_is_unbiased_under_the_proposals_own_likelihood(count, batch, proposal, threshold):
    z = cloud(TWO, count, batch, proposal=proposal, threshold=threshold).log_z.exp()
    assert abs(float(z.mean()) - truth(TWO, likelihood)[0]) < 4 * float(z.std()) / batch**0.5


def test_own_likelihoods_cancel_when_nothing_is_resampled():
    """Weights exp(r(x_N)) prod p/q, p and q by hand for N(0, 1): D = alpha x and D' = D + sigma^2/(sigma^2 +
    s^2) (y - D).
    """
    found = cloud(STANDARD, 32, 3, proposal=TMPD(SEEN), threshold=0.0)
    source = Addressed(11, samples=range(3))
    x, noise = (
        starting_particles(source, torch.zeros(3, 1, dtype=torch.float64), 32).flatten(0, 1),
        ParticleNoise(source, 32),
    )
    ratio = torch.zeros(96, dtype=torch.float64)
    for k, op in enumerate([op for op in PLAN.instructions if isinstance(op, Combine)]):
        alpha, sigma = PROCESS.alpha(torch.tensor(PLAN.times[k])), PROCESS.sigma(torch.tensor(PLAN.times[k]))
        (a, _), (c, _) = op.terms
        ((std, _),) = op.noise
        assert isinstance(a, float) and isinstance(c, float) and isinstance(std, float)
        data = alpha * x
        moved = c * sigma**2 / (sigma**2 + STD**2) * (Y - data)  # of the mean, by the proposal
        drawn = a * x + c * data + moved + std * noise(k, x)
        ratio += ((std * noise(k, x)).square() - (std * noise(k, x) + moved).square())[:, 0] / (2 * std**2)
        x = drawn
    assert torch.allclose(found.x.flatten(0, 1), x, atol=1e-12)
    by_hand = (likelihood(x) + ratio).unflatten(0, (3, 32))
    assert torch.allclose(found.log_weights, by_hand.log_softmax(1), atol=1e-9)
    assert torch.allclose(found.log_z, by_hand.logsumexp(1) - math.log(32), atol=1e-9)
    by_data = cloud(
        STANDARD, 32, 3, proposal=TMPD(SEEN).during(), threshold=0.0
    )  # weighed by r(D) on the way
    assert torch.allclose(found.log_weights, by_data.log_weights, atol=1e-9) and not torch.allclose(
        found.ess[0], by_data.ess[0]
    )


def test_a_last_step_without_noise_leaves_the_proposal_out():
    """To t = 0 DDIM(1.0) draws nothing in its last step: no density, no correction, the weights still those
    of r(x_N).
    """
    plan, source = (
        DDIM(1.0).plan(PROCESS, GivenTimes([0.9, 0.6, 0.3, 0.1, 0.0])),
        Addressed(11, samples=range(3)),
    )
    x = starting_particles(source, torch.zeros(3, 1, dtype=torch.float64), 16)
    own, by_data = (
        smc(TWO.denoiser(PROCESS), plan, x, likelihood, source, proposal=guide, threshold=0.0)
        for guide in (TMPD(SEEN), TMPD(SEEN).during())
    )
    assert torch.equal(own.x, by_data.x) and own.run.vjps == 3
    assert torch.allclose(own.log_weights, by_data.log_weights, atol=1e-9)


@pytest.mark.parametrize("proposal", [TMPD(SEEN), PiGDM(SEEN)], ids=["TMPD", "PiGDM"])
@pytest.mark.slow
def test_an_exact_likelihood_leaves_nothing_to_resample(proposal):
    """On N(0, 1) both know p(y | x_t), so that only the steps' size makes weights vary; r(D), too sharp,
    costs a quarter of the particles.
    """
    plan = DDPM().plan(PROCESS, UniformLambda(120, start=0.999, end=0.01))
    noise = Addressed(3, samples=range(4))
    x = starting_particles(noise, torch.zeros(4, 1, dtype=torch.float64), 256)

    def run(guide, threshold):
        return smc(
            STANDARD.denoiser(PROCESS),
            plan,
            x,
            likelihood,
            noise,
            proposal=guide,
            potential=Difference(),
            threshold=threshold,
        )

    own, data = run(proposal, 0.5), run(proposal.during(), 0.0)
    assert not bool(own.resampled.any()) and float(own.ess.min()) > 0.9 * 256
    assert float(data.ess.min()) < 0.8 * 256
    expected = -(Y**2) / (2 * (1 + STD**2)) - math.log(2 * math.pi * (1 + STD**2)) / 2
    assert float((own.log_z - expected).abs().max()) < 0.05


def soft(x, context=None):
    return 0.3 * torch.tanh(2 * x[:, 0])


@pytest.mark.parametrize("potential", [Difference(), Most(), Total(), Terminal()], ids=str)
@pytest.mark.parametrize("count, batch", [(1, 600), (8, 300), (64, 40)])
def test_any_potential_leaves_the_evidence_unbiased(count, batch, potential):
    """A bounded reward: the total of likelihoods of the order of -50 gives weights with tails that no z-test sees."""
    z = cloud(TWO, count, batch, potential=potential, reward=soft, threshold=0.95).log_z.exp()
    assert abs(float(z.mean()) - truth(TWO, soft)[0]) < 4 * float(z.std()) / batch**0.5


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("strength", [0.1, 3.0])
def test_weights_are_kept_when_nothing_is_resampled(threshold, strength):
    """Reward s x on N(0, 1): the tilted mean is s times the variance. A run that forgets weights at high ESS
    gives 0.
    """

    def reward(x, context):
        return strength * x[:, 0]

    found = cloud(STANDARD, 1024, 40, reward=reward, potential=Difference(), threshold=threshold)
    means = found.mean()[:, 0]
    expected = truth(STANDARD, lambda x: reward(x, None))[1]
    assert expected > 0.4 * strength  # six DDPM steps have variance 0.45
    assert (
        abs(float(means.mean()) - expected) < 4 * float(means.std()) / 40**0.5 + 2e-3
    )  # bias of a ratio, O(1/K)
    assert bool(found.resampled.any()) == (threshold == 1.0 or threshold == 0.5 and strength == 3.0)
    if not bool(found.resampled.any()):  # then it is importance sampling, exactly
        scores = strength * found.x[..., 0]
        assert torch.allclose(found.log_weights, scores.log_softmax(1), atol=1e-10)
        assert torch.allclose(found.log_z, scores.logsumexp(1) - math.log(1024), atol=1e-10)


def test_reward_x_on_the_standard_normal_has_mean_one():
    """Fine steps: the tilted law of N(0, 1) under exp(x) is N(1, 1), log Z = 1/2."""
    plan = DDPM().plan(PROCESS, UniformLambda(60, start=0.999, end=0.01))
    noise = Addressed(3, samples=range(20))
    x = starting_particles(noise, torch.zeros(20, 1), 256)
    found = smc(STANDARD.denoiser(PROCESS), plan, x, lambda x, context: x[:, 0], noise)
    assert abs(float(found.mean().mean()) - 1) < 0.12 and abs(float(found.log_z.mean()) - 0.5) < 0.12


def test_the_exact_weights_of_a_mixture():
    """A reward on one component's responsibility reweighs the modes exactly."""

    def reward(x, context):
        return 1.5 * torch.sigmoid(8 * x[:, 0])

    found = cloud(TWO, 256, 40, reward=reward)
    points, law = grid_law(TWO)
    weight = law * (1.5 * torch.sigmoid(8 * points)).exp()
    expected = float((weight * (points > 0)).sum() / weight.sum())
    share = found.mean((found.x > 0).double())[:, 0]
    assert abs(float(share.mean()) - expected) < 4 * float(share.std()) / 40**0.5 + 2e-3
    assert abs(expected - float((law * (points > 0)).sum())) > 0.1  # the reward matters


def test_many_particles_converge_to_the_posterior():
    """Error of the posterior mean against K: at least halved from 16 to 256, and against the exact law within
    3 sigma.
    """
    expected = truth(TWO, likelihood)[1]
    errors = {k: cloud(TWO, k, 40).mean()[:, 0] - expected for k in (16, 256)}
    rms = {k: float(e.square().mean().sqrt()) for k, e in errors.items()}
    assert rms[256] < 0.5 * rms[16] and abs(float(errors[256].mean())) < 4 * rms[256] / 40**0.5 + 5e-3
    exact = float(TWO.posterior(torch.eye(1), torch.tensor([Y]), STD).mean)
    assert abs(expected - exact) < 0.25  # six steps of DDPM


def test_a_good_proposal_lowers_the_variance():
    plain, guided = (
        cloud(TWO, 32, 200, proposal=guide, potential=Difference()).log_z for guide in (None, Exact())
    )
    assert float(guided.var()) < 0.7 * float(plain.var())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"proposal": Exact(), "threshold": 0.9},
        {"potential": Most(), "threshold": 1.0},
        {"proposal": TMPD(SEEN), "threshold": 1.0},
    ],
    ids=said,
)
def test_samples_never_meet(options):
    whole = cloud(TWO, 8, 4, **options)
    for b in range(4):
        one = cloud(TWO, 8, 1, first=b, **options)
        assert torch.equal(one.x[0], whole.x[b]) and torch.equal(one.log_weights[0], whole.log_weights[b])
        assert torch.equal(one.resampled[:, 0], whole.resampled[:, b]) and torch.equal(
            one.log_z[0], whole.log_z[b]
        )


def test_a_particle_has_its_noise_whatever_else_there_is():
    like = torch.zeros(6, 3)
    noise = ParticleNoise(Addressed(5, samples=[7, 9]), 3)(4, like).unflatten(0, (2, 3))
    alone = ParticleNoise(Addressed(5, samples=[9]), 2)(4, like[:2])
    assert torch.equal(noise[1, :2], alone)
    assert len({tuple(row) for row in noise.flatten(0, 1).tolist()}) == 6


def test_without_noise_and_reward_it_is_the_sampler():
    found = cloud(TWO, 3, 2, reward=lambda x, context: x[:, 0] * 0)
    noise = Addressed(11, samples=range(2))
    x = starting_particles(noise, torch.zeros(2, 1), 3).flatten(0, 1)
    plain = sample(TWO.denoiser(PROCESS), PLAN, x, noise=ParticleNoise(noise, 3), gradient=None)
    assert torch.equal(found.x.flatten(0, 1), plain) and torch.allclose(
        found.log_z, torch.zeros(2), atol=1e-12
    )
    assert torch.allclose(found.ess, torch.full((6, 2), 3.0)) and found.run.nfe == 6


@pytest.mark.parametrize("scheme", [Multinomial(), Stratified(), Systematic()], ids=str)
def test_children_are_right_in_the_mean(scheme):
    weights = torch.tensor([[0.5, 0.05, 0.0, 0.45], [0.25, 0.25, 0.25, 0.25]])
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(3000, 2, 4)
    for k in range(3000):
        found = scheme(weights, torch.rand(2, 4, generator=generator))
        counts[k] = torch.stack([(found == j).sum(1) for j in range(4)], 1)
    error = (counts.mean(0) - 4 * weights).abs() / (counts.std(0) / 3000**0.5 + 1e-12)
    assert float(error.max()) < 4 and float(counts[:, 0, 2].max()) == 0
    if isinstance(scheme, Systematic):
        assert bool(((counts - 4 * weights).abs() < 1).all())


def test_no_child_of_a_particle_without_weight_at_the_edges():
    for u in (0.0, 1 - 2**-53):
        found = Multinomial()(torch.tensor([[0.0, 1.0, 0.0]]), torch.full((1, 3), u))
        assert torch.equal(found, torch.ones(1, 3, dtype=torch.long))


def test_ess():
    assert torch.allclose(
        ess(torch.tensor([[3.0, 3.0, 3.0], [0.0, -torch.inf, -torch.inf]])), torch.tensor([3.0, 1.0])
    )


def plain_svdd(x, children, noise):
    """Argmax of r(D) among children, by plain loops."""
    model, out = TWO.denoiser(PROCESS), []
    combines = [op for op in PLAN.instructions if isinstance(op, Combine)]
    for b in range(len(x)):
        state = x[b : b + 1]
        for k, op in enumerate(combines):
            (a, _), (c, _) = op.terms
            ((std, _),) = op.noise
            assert isinstance(a, float) and isinstance(c, float)
            data = model(state, torch.tensor([PLAN.times[k]]))
            born = [
                a * state + c * data + std * noise(k, torch.zeros(len(x) * children, 1))[b * children + j]
                for j in range(children)
            ]
            value = [
                born[j] if k == 5 else model(born[j], torch.tensor([PLAN.times[k + 1]]))
                for j in range(children)
            ]
            state = born[max(range(children), key=lambda j: float(likelihood(value[j])))]  # noqa: B023
        out.append(state)
    return torch.cat(out)


def test_svdd_takes_the_best_child():
    x, noise = torch.randn(3, 1), Addressed(2)
    run = svdd(TWO.denoiser(PROCESS), PLAN, x, likelihood, noise, children=4)
    assert torch.allclose(run.sample, plain_svdd(x, 4, ParticleNoise(noise, 4)), atol=1e-12) and run.nfe == 11
    far = svdd(TWO.denoiser(PROCESS), PLAN, torch.randn(300, 1), likelihood, noise, children=4, beta=1e6)
    near = svdd(TWO.denoiser(PROCESS), PLAN, torch.randn(300, 1), likelihood, noise, children=4)
    assert float(likelihood(near.sample).mean()) > float(likelihood(far.sample).mean()) + 0.5
    one = svdd(
        TWO.denoiser(PROCESS), PLAN, x[2:], likelihood, Addressed(2, samples=[2]), children=4, beta=0.3
    )
    whole = svdd(TWO.denoiser(PROCESS), PLAN, x, likelihood, noise, children=4, beta=0.3)
    assert torch.equal(one.sample[0], whole.sample[2])


def test_best_of():
    noise = Addressed(4)
    x = starting_particles(noise, torch.zeros(3, 1), 5)
    every = sample(
        TWO.denoiser(PROCESS), PLAN, x.flatten(0, 1), noise=ParticleNoise(noise, 5), gradient=None
    ).unflatten(0, (3, 5))
    best = best_of(TWO.denoiser(PROCESS), PLAN, x, likelihood, noise)
    assert torch.allclose(
        likelihood(best), likelihood(every.flatten(0, 1)).unflatten(0, (3, 5)).amax(1), atol=1e-12
    )
    plain = DPMSolverPP(2).plan(PROCESS, UniformLambda(5, start=0.9, end=0.05))
    assert best_of(TWO.denoiser(PROCESS), plain, x, likelihood).shape == (3, 1)


def test_a_drawn_particle_has_its_weight():
    found = cloud(TWO, 16, 400, threshold=0.0)
    drawn = found.draw(Addressed(77))
    error = drawn[:, 0] - found.mean()[:, 0]
    assert abs(float(error.mean())) < 4 * float(error.std()) / 400**0.5 and float(found.final_ess.max()) <= 16


def test_context_follows_its_sample():
    def reward(x, context):
        return -((x[:, 0] - context[:, 0]) / STD).square() / 2

    noise, context = Addressed(11, samples=range(2)), torch.tensor([[-1.5], [1.2]])
    x = starting_particles(noise, torch.zeros(2, 1), 64)
    found = smc(TWO.denoiser(PROCESS), PLAN, x, reward, noise, context=context).mean()[:, 0]
    assert float(found[0]) < -0.9 and float(found[1]) > 0.7


class Later(Guide):
    def state(self, ctx, x):
        return x * 1.1


def bad(**options) -> Sequence:
    noise = options.pop("noise", Addressed(0))
    x = options.pop("x", torch.zeros(2, 3, 1))
    return smc(
        TWO.denoiser(PROCESS),
        options.pop("plan", PLAN),
        x,
        options.pop("reward", likelihood),
        noise,
        **options,
    )  # type: ignore


@pytest.mark.parametrize("options, words", [
    ({"plan": DDIM().plan(PROCESS, UniformLambda(6, start=0.9, end=0.05))}, "draws no noise"),
    ({"proposal": Later()}, "state changed"),
    ({"x": torch.zeros(2, 1)}, "K particles"),
    ({"noise": Addressed(0, samples=[1])}, "sample ids"),
    ({"beta": 0.0}, "beta > 0"),
    ({"reward": lambda x, context: x}, "per particle"),
    ({"context": torch.zeros(3)}, "one for each sample"),
])  # fmt: skip
def test_bad_input(options, words):
    with pytest.raises(ValueError, match=words):
        bad(**options)


def test_potentials_by_hand():
    rewards = torch.tensor([1.0, 3.0, 2.0])[:, None, None]
    assert [float(p(rewards)) for p in (Difference(), Most(), Total(), Terminal())] == [-1.0, 3.0, 6.0, 0.0]


# what a run says of itself
# -----------------------------------------------------------------------------------------------------------


def test_without_resampling_the_relative_variance_is_that_of_the_weights():
    found = cloud(TWO, 32, 3, threshold=0.0)
    weights = likelihood(found.x.flatten(0, 1)).reshape(3, 32).exp()
    want = weights.var(1) / 32 / weights.mean(1).square()
    assert torch.allclose(found.relative_variance, want, rtol=1e-9)
    assert bool(cloud(TWO, 1, 3).relative_variance.isnan().all())


@pytest.mark.parametrize("threshold", [0.5, 1.0])
def test_the_relative_variance_is_that_of_many_runs(threshold):
    found = cloud(TWO, 64, 300, threshold=threshold, resampling=Multinomial())
    z = found.log_z.exp()
    want = float(z.var()) / truth(TWO, likelihood)[0] ** 2
    assert 0.6 * want < float(found.relative_variance.mean()) < 1.6 * want


def sharp(x, context=None):
    """Three numbers seen to 0.05: nothing but the prior's width is known where the run begins."""
    return -((x - 0.7) / 0.05).square().sum(1) / 2


def sharp_cloud(**options):
    plan, noise = (
        DDIM(1.0).plan(PROCESS, UniformLambda(25, start=0.999, end=0.01)),
        Addressed(4, samples=range(2)),
    )
    x = starting_particles(noise, torch.zeros(2, 3), options.pop("count", 64))
    law = Gaussian(torch.zeros(3), 1.0)
    seen = Measurement(Matrix(torch.eye(3)), torch.full((1, 3), 0.7), 0.05)
    proposal = TMPD(seen) if options.pop("guided", False) else None
    return smc(law.denoiser(PROCESS), plan, x, sharp, noise, proposal=proposal, **options)


def test_few_effective_particles_are_said():
    """r(D) taken for certain loses all but one particle at once: log Z is tens of nats low, at a final ESS that
    looks well.
    """
    want = -0.5 * 3 * (0.49 / (1 + 0.05**2) + math.log(1 + 0.05**-2))  # of N(0, 1) data
    with pytest.warns(
        UserWarning, match=r"sample size of 1 of 64 particles.*expected at least 3.2.*TMPD\(meas"
    ):
        lost = sharp_cloud(potential=Difference())
    assert float((lost.log_z - want).max()) < -10 and float(lost.final_ess.min()) > 0.15 * 64
    assert float(lost.least_ess.max()) < 2 and float(lost.relative_variance.min()) > 0.9


def test_a_good_proposal_is_not_warned_of(recwarn):
    want = -0.5 * 3 * (0.49 / (1 + 0.05**2) + math.log(1 + 0.05**-2))
    found = sharp_cloud(guided=True)
    assert not recwarn.list and float((found.log_z - want).abs().max()) < 0.6
    assert float(found.relative_variance.max()) < 0.2


@pytest.mark.filterwarnings("ignore:smc")
@pytest.mark.slow
def test_the_default_potential_discounts_what_is_not_known():
    """Tens of nats of log Z, and the particles, at no cost."""
    published, default = (sharp_cloud(count=256, **o).log_z for o in ({"potential": Difference()}, {}))
    want = -0.5 * 3 * (0.49 / (1 + 0.05**2) + math.log(1 + 0.05**-2))
    assert float((published - want).abs().min()) > 2 * float((default - want).abs().max())


def test_a_reward_that_is_not_finite_is_named():
    noise = Addressed(0, samples=range(2))
    x = starting_particles(noise, torch.zeros(2, 1), 4)
    for value in (torch.nan, torch.inf):
        for run in (
            lambda r: smc(TWO.denoiser(PROCESS), PLAN, x, r, noise),
            lambda r: best_of(TWO.denoiser(PROCESS), PLAN, x, r, noise),
            lambda r: svdd(TWO.denoiser(PROCESS), PLAN, x[:, 0], r, noise, children=4),
        ):
            with pytest.raises(FloatingPointError, match=f"reward: got {value} for particle 5 of 8"):
                run(lambda x, context, value=value: x[:, 0].index_fill(0, torch.tensor([5]), value))


@pytest.mark.parametrize(
    "make", [TMPD, PiGDM, lambda m: TMPD(m).during(), lambda m: DataGuidance(m.nats) + DDNM(m)], ids=range(4)
)
def test_a_proposals_measurements_are_repeated_for_the_particles(make):
    """B = 2 samples with a y of their own, K = 4 particles: each sample's cloud is the one it has alone."""
    matrix = torch.tensor([[1.0]])
    ys = torch.tensor([[0.8], [-1.1]])
    noise = Addressed(11, samples=range(2))
    x = starting_particles(noise, torch.zeros(2, 1), 4)

    def run(y, x, noise):
        reward = lambda x, context: -(x - context).square().sum(1) / (2 * STD**2)  # noqa: E731
        guide = make(Measurement(Matrix(matrix), y, STD))
        return smc(TWO.denoiser(PROCESS), PLAN, x, reward, noise, proposal=guide, context=y)

    whole = run(ys, x, noise)
    for b in range(2):
        one = run(ys[b : b + 1], x[b : b + 1], Addressed(11, samples=[b]))
        assert torch.allclose(whole.x[b], one.x[0], atol=1e-12)
        assert torch.allclose(whole.log_z[b], one.log_z[0], atol=1e-12)


def inside(x, context=None):
    """A constraint: the law cut off at -1/2."""
    return torch.where(x[:, 0] > -0.5, 0.3 * x[:, 0], -torch.inf)


@pytest.mark.parametrize("threshold", [0.5, 1.0])
@pytest.mark.parametrize("potential", [Discounted(), Difference(), Most(), Total(), Terminal()], ids=repr)
def test_a_constraint_is_weighed_exactly(potential, threshold):
    """-inf on the way says nothing of the end, -inf there is weight 0; 0 times inf is nowhere."""
    found = cloud(TWO, 16, 200, reward=inside, potential=potential, threshold=threshold)
    z = found.log_z.exp()
    assert bool(z.isfinite().all()) and bool(found.ess.isfinite().all())
    assert abs(float(z.mean()) - truth(TWO, inside)[0]) < 4 * float(z.std()) / 200**0.5
    some = found.log_z > -torch.inf
    assert bool((found.log_weights[some].exp()[found.x[some][..., 0] <= -0.5] == 0).all())


@pytest.mark.parametrize("potential", [Discounted(), Most(), Total(), Terminal()], ids=repr)
def test_particles_none_of_which_has_a_weight(potential):
    """Z is 0 and so is the ESS; there is nothing to draw and no mean. Batch mates have theirs."""

    def reward(x, context=None):
        return torch.where(torch.arange(len(x)) < 8, -torch.inf, 0.0)

    with pytest.warns(UserWarning, match=r"reward of -inf for all 8 particles of samples \[0\] of 2"):
        found = cloud(TWO, 8, 2, reward=reward, potential=potential)
    assert found.log_z[0] == -torch.inf and found.ess[-1, 0] == 0 and found.final_ess[0] == 0
    assert bool(found.log_weights[0].isnan().all()) and bool(found.mean()[0].isnan().all())
    assert abs(float(found.log_z[1])) < 1e-12 and abs(float(found.final_ess[1]) - 8) < 1e-9
    with pytest.raises(ValueError, match=r"draw: got no particle of any weight for samples \[0\] of 2"):
        found.draw(Addressed(0))


@pytest.mark.parametrize(
    "cond",
    [
        Guided(torch.ones(2, 1), PerStep(torch.linspace(1, 2, 6))),
        Guided(torch.ones(2, 1), torch.tensor(1.5)),
        Guided(torch.ones(2, 1), torch.tensor([1.5, 2.0])),
        Guided(torch.ones(2, 1), PerStep(torch.linspace(1, 2, 12).reshape(6, 2))),
        Guided(torch.ones(1, 1), 2.0),
    ],
    ids=["per step", "scalar", "per sample", "per step and sample", "cond of batch one"],
)
def test_conditioning_of_all_kinds_is_repeated_for_the_particles(cond):
    """Each particle runs as a sample that has its sample's conditioning."""
    model = ClassifierFree(Denoiser(lambda x, t, c: x * 0.3 + c.sum(-1, keepdim=True), PROCESS, DATA), 1.0,
                           torch.zeros(cond.cond.shape[-1]))  # fmt: skip
    noise = Addressed(3)
    x = starting_particles(noise, torch.zeros(2, 1), 3)
    found = smc(model, PLAN, x, likelihood, noise, potential=Terminal(), threshold=0.0, cond=cond)
    kept = svdd(model, PLAN, x[:, 0], likelihood, noise, children=1, cond=cond)
    for k in range(3):
        wanted = sample(model, PLAN, x[:, k], cond=cond, noise=Addressed(3, stream=k))
        assert torch.allclose(found.x[:, k], wanted, atol=1e-12)
        assert k or torch.allclose(kept.sample, wanted, atol=1e-12)


def test_no_samples_and_no_particles():
    """An empty batch has an empty cloud; a sample without particles has none."""
    found = smc(TWO.denoiser(PROCESS), PLAN, torch.zeros(0, 4, 1), likelihood, Addressed(0))
    assert found.x.shape == (0, 4, 1) and found.log_z.shape == (0,) and found.mean().shape == (0, 1)
    with pytest.raises(ValueError, match=r"x: got shape \(2, 0, 1\), expected .* at least one particle"):
        smc(TWO.denoiser(PROCESS), PLAN, torch.zeros(2, 0, 1), likelihood, Addressed(0))
