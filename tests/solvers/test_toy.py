"""The oracle is itself held to independent answers: quadrature, grids, autograd and numerical flows."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pullback.solvers import EDM, VE, VP, CosineVP, Gaussian, Mixture, RectifiedFlow
from pullback.solvers.toy.transport import runge_kutta_8

SEEDS = st.integers(0, 10**6)
LEVELS = st.sampled_from([(1.0, 0.0), (0.9, 0.2), (0.5, 0.8), (0.05, 1.0), (0.0, 1.0), (1.0, 7.0)])
PROCESSES = [VP(), RectifiedFlow(), EDM(), VE(), CosineVP()]


def generator(seed):
    return torch.Generator().manual_seed(seed)


def mixture(seed=0, k=3, d=2, kind="full", grad=False):
    """A random mixture: full covariances, or isotropic."""
    g = generator(seed)
    w, m = torch.rand(k, generator=g) + 0.2, torch.randn(k, d, generator=g)
    if kind == "full":
        r = torch.randn(k, d, d, generator=g) / d**0.5
        s = 0.3 * r @ r.mT + 0.05 * torch.eye(d)
    else:
        s = 0.2 + torch.rand(k, generator=g)
    tensors = [v.clone().requires_grad_(grad) for v in (w / w.sum(), m, s)]
    return Mixture(*tensors)


KINDS = pytest.mark.parametrize("kind", ["full", "isotropic"])


@KINDS
@given(SEEDS, LEVELS)
def test_score_is_the_gradient_of_log_prob_and_tweedie_holds(kind, seed, level):
    model, x = mixture(seed, kind=kind), torch.randn(5, 2, generator=generator(seed)).requires_grad_()
    alpha, sigma = level
    by_autograd = torch.autograd.grad(model.log_prob(x, alpha, sigma).sum(), x)[0]
    score = model.score(x, alpha, sigma)
    assert torch.allclose(score, by_autograd, atol=1e-10, rtol=1e-10)
    data, noise = model.data_and_noise(x, alpha, sigma)
    assert torch.allclose(alpha * data, x + sigma**2 * score, atol=1e-10)
    assert torch.allclose(noise, -sigma * score, atol=1e-10)
    assert torch.allclose(alpha * data + sigma * noise, x, atol=1e-10)
    assert torch.allclose(model.responsibilities(x, alpha, sigma).sum(-1), torch.ones(5))


def dense_terms(model, x, alpha, sigma):
    """log weights_k + log N(x; alpha m_k, S_k), by torch.distributions."""
    cov = alpha**2 * model.covs + sigma**2 * torch.eye(x.shape[1])
    return (
        torch.distributions.MultivariateNormal(alpha * model.means, cov).log_prob(x[:, None])
        + model.weights.log()
    )


@KINDS
@given(SEEDS, LEVELS)
def test_log_prob_and_responsibilities_against_torch_distributions(kind, seed, level):
    model, x = mixture(seed, d=3, kind=kind), torch.randn(5, 3, generator=generator(seed))
    terms = dense_terms(model, x, *level)
    assert torch.allclose(model.log_prob(x, *level), terms.logsumexp(-1), atol=1e-10)
    assert torch.allclose(model.responsibilities(x, *level), terms.softmax(-1), atol=1e-10)
    assert torch.allclose(model.marginal(*level).log_prob(x), terms.logsumexp(-1), atol=1e-10)


LINE = torch.linspace(-30, 30, 60001, dtype=torch.float64)


@pytest.mark.parametrize("level", [(1.0, 0.3), (0.5, 0.8), (0.1, 1.0)])
@KINDS
def test_denoise_and_log_prob_by_quadrature(kind, level):
    alpha, sigma = level
    model = mixture(3, d=1, kind=kind)
    assert torch.trapezoid(model.log_prob(LINE[:, None], alpha, sigma).exp(), LINE) == pytest.approx(
        1, abs=1e-10
    )
    x = torch.linspace(-3, 3, 7)
    joint = model.log_prob(LINE[:, None]).exp() * torch.exp(-0.5 * ((x[:, None] - alpha * LINE) / sigma) ** 2)
    mean = torch.trapezoid(joint * LINE, LINE) / torch.trapezoid(joint, LINE)
    assert torch.allclose(model.denoise(x[:, None], alpha, sigma)[:, 0], mean, atol=1e-9)


def plane(half=9.0, n=601):
    axis = torch.linspace(-half, half, n)
    return torch.cartesian_prod(axis, axis), (axis[1] - axis[0]) ** 2


def assert_law(model, log_density, points, cell):
    """`model` is exp(log_density), normalised, on the grid; returns the log normaliser."""
    mass = (log_density.exp() * cell).sum()
    assert torch.allclose(model.log_prob(points).exp(), log_density.exp() / mass, atol=1e-8)
    return mass.log()


@KINDS
@settings(max_examples=6)
@given(SEEDS)
def test_posterior_and_evidence_against_a_grid(kind, seed):
    model, g = mixture(seed, kind=kind), generator(seed)
    a, y, std = torch.randn(1, 2, generator=g), torch.randn(1, generator=g), 0.5
    points, cell = plane()
    likelihood = -0.5 * ((y - points @ a.T)[:, 0] / std) ** 2 - math.log(std * math.sqrt(2 * math.pi))
    log_mass = assert_law(model.posterior(a, y, std), model.log_prob(points) + likelihood, points, cell)
    assert torch.allclose(model.evidence(a, y, std), log_mass, atol=1e-8)
    assert torch.allclose(model.evidence(a, y.expand(4, 1), std), log_mass.expand(4), atol=1e-8)


def test_noiseless_measurement_is_met_exactly_and_denoises():
    model, a, y = mixture(1, d=3), torch.tensor([[1.0, 0.5, 0.0]]), torch.tensor([0.7])
    law = model.posterior(a, y, 0.0)
    draws = law.sample(100, generator(0))
    assert torch.allclose(draws @ a.T, y.expand(100, 1), atol=1e-6)
    assert torch.allclose(law.denoise(0.8 * draws + 0.3, 0.8, 0.6) @ a.T, y.expand(100, 1), atol=1e-6)
    assert law.denoise(draws, 1.0, 0.0).isfinite().all()


@pytest.mark.slow
@KINDS
@settings(max_examples=6)
@given(SEEDS, st.booleans())
def test_tilted_against_a_grid(kind, seed, indefinite):
    model, g = mixture(seed, kind=kind), generator(seed)
    b, beta = torch.randn(2, generator=g), 0.8
    r = torch.randn(2, 2, generator=g)
    q = torch.diag(torch.tensor([0.5, -0.2])) if indefinite else r @ r.T
    points, cell = plane(half=14.0, n=701)
    reward = points @ b - 0.5 * ((points @ q) * points).sum(-1)
    law, log_z = model.tilted(b, q, beta)
    assert torch.allclose(
        assert_law(law, model.log_prob(points) + reward / beta, points, cell), log_z, atol=1e-8
    )
    # the law maximises E[r] - beta KL(q | p), and its optimum is beta log Z
    some = law.sample(50, generator(seed))
    value = some @ b - 0.5 * ((some @ q) * some).sum(-1) - beta * (law.log_prob(some) - model.log_prob(some))
    assert torch.allclose(value, beta * log_z.expand(50), atol=1e-8)


def test_tilt_by_nothing_is_the_law_itself():
    model, points = mixture(4), torch.randn(20, 2)
    law, log_z = model.tilted()
    assert torch.allclose(law.log_prob(points), model.log_prob(points)) and log_z.abs() < 1e-12


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@KINDS
def test_gaussian_flow_is_exact_and_the_mixture_flow_agrees(kind, process):
    one = mixture(5, k=1, d=3, kind=kind)
    twice = Mixture(
        torch.tensor([0.4, 0.6]), one.means.expand(2, 3), torch.cat([one.spread] * 2)
    )  # no closed form: integrates
    x = one.marginal(process.alpha(process.t_max), process.sigma(process.t_max)).sample(6, generator(0))
    exact, numeric = (m.flow(x, process, process.t_max, process.t_min) for m in (one, twice))
    assert torch.allclose(exact, numeric, atol=1e-9)
    back = one.flow(exact, process, process.t_min, process.t_max)
    assert torch.allclose(back, x, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_mixture_flow_converges_and_reverses(process):
    model, top, low = mixture(6), process.t_max, process.t_min
    x = model.marginal(process.alpha(top), process.sigma(top)).sample(4, generator(1))
    down = model.flow(x, process, top, low)
    assert torch.allclose(down, model.flow(x, process, top, low, steps=160), atol=1e-9)
    assert torch.allclose(model.flow(down, process, low, top), x, rtol=1e-8, atol=1e-8)
    middle = process.t_min + 0.3 * (top - low)
    assert torch.allclose(
        model.flow(model.flow(x, process, top, middle), process, middle, low), down, atol=1e-9
    )


def test_mixture_flow_has_order_eight():
    model, x = mixture(6, kind="isotropic"), torch.randn(8, 2, generator=generator(2))
    exact = model.flow(x, VP(), 1.0, 0.0, steps=256)
    few, many = ((model.flow(x, VP(), 1.0, 0.0, steps=n) - exact).norm() for n in (12, 24))
    assert 6.5 < math.log2(few / many) < 10


@pytest.mark.parametrize(
    ("slope", "start", "end", "exact"),
    [
        (lambda u, x: 1 + x * x, 0.0, 1.0, math.tan(1)),
        (lambda u, x: -x * x * torch.cos(u), 1.0, 1.5, 1 / (1 + math.sin(1.5))),
        (lambda u, x: u * x, 1.0, 2.0, math.exp(2)),
    ],
    ids=["of the state", "of state and time", "linear"],
)
def test_the_integrator_has_order_eight(slope, start, end, exact):
    """Against solutions in closed form, where one wrong stage shows: it leaves the flows above within 1e-9."""
    begin, x = torch.zeros(1, 1), torch.full((1, 1), start)
    few, many = (
        abs(runge_kutta_8(slope, begin, torch.full((1, 1), end), x, n).item() - exact) for n in (4, 8)
    )
    assert math.log2(few / many) > 6.9 and many < 2e-7


def test_mixture_flow_carries_the_density():
    """d log p along the flow: log p_0(x_0) = log p_1(x_1) - log |det dx_0/dx_1|."""
    model, p, x = mixture(7), VP(), torch.randn(2, generator=generator(3))
    move = lambda v: model.flow(v[None], p, 1.0, 0.1)[0]  # noqa: E731
    jacobian = torch.autograd.functional.jacobian(move, x)
    before = model.log_prob(x[None], p.alpha(1.0), p.sigma(1.0))
    after = model.log_prob(move(x)[None], p.alpha(0.1), p.sigma(0.1))
    assert torch.allclose(after, before - jacobian.det().abs().log(), atol=1e-9)


@KINDS
def test_gaussian_jacobian(kind):
    one, x = mixture(8, k=1, d=3, kind=kind), torch.randn(3)
    start, end = (0.3, 0.9), (0.95, 0.1)
    s0, s1 = (a**2 * one.covs[0] + s**2 * torch.eye(3) for a, s in (start, end))
    j = one.transport_matrix(start, end)[0]
    assert torch.allclose(j @ s0 @ j.T, s1, atol=1e-12)
    by_autograd = torch.autograd.functional.jacobian(lambda v: one.transport(v[None], start, end)[0], x)
    assert isinstance(by_autograd, torch.Tensor) and torch.allclose(j, by_autograd, atol=1e-12)
    assert one.transport_matrix((torch.full((4,), 0.3), 0.9), end).shape == (4, 3, 3)


@KINDS
@given(SEEDS)
def test_a_batch_is_its_samples_at_their_own_times(kind, seed):
    model, g = mixture(seed, kind=kind), generator(seed)
    x, t, cond = torch.randn(8, 2, generator=g), torch.rand(8, generator=g), torch.randn(8, 2, generator=g)
    denoiser = model.denoiser(VP())
    assert torch.allclose(
        denoiser(x, t), torch.cat([denoiser(x[i : i + 1], t[i : i + 1]) for i in range(8)]), atol=1e-13
    )
    one = torch.cat([denoiser(x[i : i + 1], t[i : i + 1], cond[i : i + 1]) for i in range(8)])
    assert torch.allclose(denoiser(x, t, cond), one, atol=1e-13)


@KINDS
def test_a_flow_takes_times_per_sample(kind):
    model, x, t = mixture(16, kind=kind), torch.randn(4, 2), torch.rand(4)
    one = torch.cat([model.flow(x[i : i + 1], VP(), float(t[i]), 0.0, steps=8) for i in range(4)])
    assert torch.allclose(model.flow(x, VP(), t, torch.zeros(4), steps=8), one, atol=1e-12)


def test_conditioning_shifts_the_means():
    model, x, t, shift = mixture(9), torch.randn(6, 2), torch.rand(6), torch.tensor([0.4, -1.2])
    moved = Mixture(model.weights, model.means + shift, model.spread)
    assert torch.allclose(model.denoiser(VP())(x, t, shift), moved.denoiser(VP())(x, t), atol=1e-12)


@KINDS
def test_image_states_and_dtypes(kind):
    model, x = mixture(10, d=12, kind=kind), torch.randn(5, 3, 2, 2)
    flat = model.denoise(x.flatten(1), 0.6, 0.8)
    assert torch.equal(model.denoise(x, 0.6, 0.8), flat.view(5, 3, 2, 2))
    assert model.flow(x, VP(), 1.0, 0.0, steps=4).shape == x.shape
    for dtype in (torch.float32, torch.float64):
        for other in (model, model.to(dtype)):
            point, half = x.to(dtype), torch.full((5,), 0.5, dtype=dtype)
            outs = [law(point, 0.6, 0.8) for law in (other.denoise, other.score, other.log_prob)]
            outs += [other.denoiser(VP())(point, half), other.flow(point, VP(), 1.0, 0.5, steps=2)]
            assert {o.dtype for o in outs} == {dtype}
            assert torch.allclose(outs[0].double(), flat.view_as(x), atol=1e-5)


@KINDS
@pytest.mark.parametrize("grad", [False, True])
def test_ends_are_exact_and_finite_with_their_gradients(kind, grad):
    model, x = mixture(11, kind=kind, grad=grad), torch.randn(4, 2).requires_grad_()
    clean, noisy = model.denoise(x, 0.7, 0.0), model.denoise(x, 0.0, 1.0)
    assert torch.allclose(clean, x / 0.7, atol=1e-12)
    assert torch.allclose(noisy, model.mean.expand(4, 2), atol=1e-12)
    alpha, sigma = (torch.tensor([v, 0.5, 1 - v, 0.3], requires_grad=True) for v in (0.0, 1.0))
    data, noise = model.data_and_noise(x, alpha, sigma)
    leaves = [x, alpha, sigma] + ([model.weights, model.means, model.spread] if grad else [])
    for out in (clean, noisy, data, noise, model.flow(x, CosineVP(), 1.0, 0.0, steps=3)):
        grads = torch.autograd.grad(out.sum(), leaves, retain_graph=True, allow_unused=True)
        assert out.isfinite().all() and all(g is None or g.isfinite().all() for g in grads)


def test_points_and_singular_covariances():
    points = Mixture.isotropic(torch.ones(3), torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]), 0.0)
    x = torch.tensor([[0.9, 0.1], [0.1, 1.7]], requires_grad=True)
    assert torch.allclose(points.denoise(x, 1.0, 0.0), points.means[1:])  # sigma -> 0: the nearest point
    near, nearer = (points.flow(x, EDM(), 1.0, 1e-3, steps=n) for n in (64, 256))
    assert torch.allclose(near, nearer, atol=1e-6) and torch.allclose(near, points.means[[1, 2]], atol=5e-3)
    with pytest.raises(ValueError, match="stop at a small sigma"):
        points.flow(x, EDM(), 1.0, 0.0)
    point = Gaussian(torch.ones(2), torch.zeros(2, 2))  # least eigenvalue and slack are both 0
    assert torch.allclose(point.denoise(x, 0.6, 0.8), torch.ones(2, 2))
    line = Gaussian(torch.zeros(2), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    assert torch.allclose(line.denoise(x, 1.0, 0.0), x * torch.tensor([1.0, 0.0]))
    assert torch.allclose(line.flow(x, EDM(), 1.0, 0.0), x * torch.tensor([0.5**0.5, 0.0]))
    assert torch.autograd.grad(line.denoise(x, 1.0, 0.0).sum(), x)[0].isfinite().all()


@KINDS
def test_gradients_of_every_argument(kind):
    """x, levels and the model's own tensors, equal eigenvalues included."""
    base = mixture(12, k=2, kind=kind)
    spread = torch.stack([0.3 * torch.eye(2), base.spread[1]]) if kind == "full" else base.spread
    x, alpha, sigma = torch.randn(3, 2), torch.tensor([0.9, 0.5, 0.3]), torch.tensor([0.2, 0.6, 0.9])

    def outputs(x, alpha, sigma, w, m, s):
        model = Mixture(w, m, (s + s.mT) / 2 if s.ndim == 3 else s)
        law, log_z = model.tilted(m[0], torch.eye(2), 0.9)
        known = model.posterior(torch.ones(1, 2), torch.ones(1), 0.5)
        return (
            *model.data_and_noise(x, alpha, sigma),
            model.log_prob(x, alpha, sigma),
            model.score(x, alpha, sigma),
            law.mean,
            law.cov,
            log_z,
            known.mean,
            model.evidence(torch.ones(1, 2), torch.ones(1), 0.5),
        )

    arguments = [v.clone().requires_grad_() for v in (x, alpha, sigma, base.weights, base.means, spread)]
    assert torch.autograd.gradcheck(outputs, arguments)
    assert torch.autograd.gradgradcheck(lambda *v: outputs(*v)[0], arguments)


@pytest.mark.slow
@KINDS
def test_gradients_of_the_flows(kind):
    spread = 0.3 * torch.eye(2) + 0.02 * torch.ones(2, 2) if kind == "full" else torch.tensor(0.4)

    def moved(x, m, s, start):
        model = Mixture(torch.ones(1), m[None], ((s + s.mT) / 2 if s.ndim else s)[None])
        return model.flow(x, RectifiedFlow(), start, 0.1)

    arguments = [v.requires_grad_() for v in (torch.randn(3, 2), torch.randn(2), spread, torch.tensor(0.8))]
    assert torch.autograd.gradcheck(moved, arguments)
    equal = 0.3 * torch.eye(2).requires_grad_() if kind == "full" else spread
    assert torch.autograd.gradcheck(moved, [*arguments[:2], equal, arguments[3]])

    def mixed(x, w, m, s):
        return Mixture(w, m, (s + s.mT) / 2 if s.ndim == 3 else s).flow(x, VP(), 0.8, 0.2, steps=6)

    model = mixture(13, k=2, kind=kind, grad=True)
    assert torch.autograd.gradcheck(mixed, [arguments[0], model.weights, model.means, model.spread])


@KINDS
def test_both_covariance_paths_agree(kind):
    plain, x = mixture(14, kind=kind), torch.randn(5, 2)
    learnt = Mixture(plain.weights, plain.means, plain.spread.clone().requires_grad_())
    for level in [(0.9, 0.2), (torch.rand(5), torch.rand(5)), (1.0, 0.0), (0.0, 1.0)]:
        assert torch.allclose(plain.denoise(x, *level), learnt.denoise(x, *level), atol=1e-12)
        assert torch.allclose(plain.log_prob(x, *level), learnt.log_prob(x, *level), atol=1e-12)


@KINDS
def test_samples_have_the_moments(kind):
    model = mixture(15, kind=kind)
    draws = model.sample(200_000, generator(0))
    assert torch.equal(draws, model.sample(200_000, generator(0)))
    assert torch.allclose(draws.mean(0), model.mean, atol=0.02) and torch.allclose(
        draws.T.cov(), model.cov, atol=0.03
    )
    assert torch.allclose(draws.T.cov(), mixture(15, kind=kind, grad=True).cov, atol=0.03)


def test_weights_are_normalised_and_a_gaussian_is_one_component():
    model = Mixture(torch.tensor([1.0, 3.0]), torch.zeros(2, 1), torch.ones(2))
    assert torch.allclose(model.weights, torch.tensor([0.25, 0.75]))
    one, x = Gaussian(torch.tensor([1.0, 2.0]), 0.25), torch.randn(3, 2)
    assert torch.allclose(one.cov, 0.25 * torch.eye(2))
    assert torch.allclose(one.log_prob(x), Gaussian(one.mean, one.cov).log_prob(x))


W, M, C = torch.ones(2), torch.zeros(2, 3), torch.ones(2)
BAD = {
    "expected \\(K,\\)": lambda: Mixture(W, torch.zeros(3, 3), C),
    "positive finite": lambda: Mixture(torch.tensor([1.0, 0.0]), M, C),
    "stds": lambda: Mixture(W, M, -C),
    "symmetric": lambda: Mixture(W, M, torch.randn(2, 3, 3)),
    "semi-definite": lambda: Mixture(W, M, -torch.eye(3).expand(2, 3, 3)),
    "numbers per sample": lambda: Mixture(W, M, C).denoise(torch.zeros(2, 4), 1.0, 1.0),
    "add a batch axis": lambda: Mixture(W, M, C).denoise(torch.zeros(3), 1.0, 1.0),
    "one per sample": lambda: Mixture(W, M, C).denoise(torch.zeros(4, 3), torch.ones(2), 1.0),
    "shift of the means": lambda: Mixture(W, M, C).denoiser(VP())(
        torch.zeros(4, 3), torch.ones(4), torch.zeros(2, 3)
    ),
    "use flow": lambda: Mixture(W, M, C).transport(torch.zeros(4, 3), (1.0, 1.0), (1.0, 0.0)),
    "noise_std": lambda: Mixture(W, M, C).posterior(torch.ones(1, 3), torch.ones(1), -1.0),
    "measurement": lambda: Mixture(W, M, C).posterior(torch.ones(1, 2), torch.ones(1), 1.0),
    "once per measurement": lambda: Mixture(W, M, C).posterior(torch.ones(1, 3), torch.ones(2, 1), 1.0),
    "dependent rows": lambda: Mixture(W, M, C).posterior(torch.ones(2, 3), torch.ones(2), 0.0),
    "cannot be normalised": lambda: Mixture(W, M, C).tilted(quadratic=-2 * torch.eye(3)),
    "reward": lambda: Mixture(W, M, C).tilted(linear=torch.ones(2)),
    "beta": lambda: Mixture(W, M, C).tilted(beta=0.0),
}


@pytest.mark.parametrize("match", BAD)
def test_errors_say_what_to_change(match):
    with pytest.raises(ValueError, match=match):
        BAD[match]()
