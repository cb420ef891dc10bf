"""Operators: adjoints, pseudo-inverses, regularised solves, and physics of other libraries by duck typing."""

import importlib
import re
import types

import pytest
import torch
from torchvision_stand_in import torchvision_stand_in

from pullback import guidance
from pullback.guidance import (
    DDNM,
    DPS,
    TMPD,
    Blur,
    Clipping,
    Decoded,
    DiffPIR,
    Downsample,
    GaussianNoise,
    Mask,
    Matrix,
    Measurement,
    NonLinear,
    PhaseRetrieval,
    PiGDM,
    steer,
)
from pullback.solvers import DATA, DDIM, VP, Addressed, Denoiser, Gaussian, UniformLambda

SHAPE = (3, 2, 8, 6)
KERNEL = torch.tensor([[0.1, 0.4, 0.0], [0.3, 0.9, 0.2]], dtype=torch.float64)


def linear_operators():
    g = torch.Generator().manual_seed(1)
    draw = torch.randn(5, 96, generator=g, dtype=torch.float64)
    low_rank = torch.cat([draw, draw[:2]])
    mask = (torch.rand(2, 8, 6, generator=g) > 0.4).double()
    return [
        Matrix(draw, (2, 8, 6)),
        Matrix(low_rank, (2, 8, 6)),
        Mask(mask),
        Mask(mask * 0.3),
        Blur(KERNEL),
        Blur(torch.full((3, 3), 1 / 9, dtype=torch.float64)),
        Downsample(2),
        Downsample(1),
    ]


@pytest.mark.parametrize("op", linear_operators(), ids=lambda op: type(op).__name__)
def test_linear_operators_are_what_they_claim(op):
    x = torch.randn(SHAPE)
    y = torch.randn_like(op.A(x))
    left, right = (op.A(x) * y).flatten(1).sum(1), (x * op.A_adjoint(y)).flatten(1).sum(1)
    assert torch.allclose(left, right, atol=1e-11)
    assert torch.allclose(op.A(op.A_dagger(op.A(x))), op.A(x), atol=1e-9)
    back = op.A_dagger(y)
    assert torch.allclose(op.A_dagger(op.A(back)), back, atol=1e-8)
    assert torch.allclose(op.A(2 * x + 1) - op.A(torch.ones_like(x)), 2 * op.A(x), atol=1e-11)


@pytest.mark.parametrize("op", linear_operators(), ids=lambda op: type(op).__name__)
@pytest.mark.parametrize("conjugate", [False, True])
def test_regularised_solve(op, conjugate):
    x = torch.randn(SHAPE)
    r, a, b = torch.randn_like(op.A(x)), torch.tensor([0.5, 1.0, 2.0]), torch.tensor([0.3, 0.7, 1e-2])
    physics = types.SimpleNamespace(A=op.A, A_adjoint=op.A_adjoint) if conjugate else op
    solved = Measurement(physics, r, 0.1).solve(r, a, b)
    shape = (-1, *(1,) * (r.ndim - 1))
    assert torch.allclose(
        a.reshape(shape) * op.A(op.A_adjoint(solved)) + b.reshape(shape) * solved, r, atol=1e-9
    )


def test_blur_is_a_circular_convolution():
    x = torch.randn(1, 1, 5, 4)
    want = torch.zeros(5, 4)
    for i in range(5):
        for j in range(4):
            for h in range(2):
                for w in range(3):
                    want[i, j] += KERNEL[h, w] * x[0, 0, (i - h + 1) % 5, (j - w + 1) % 4]
    assert torch.allclose(Blur(KERNEL).A(x)[0, 0], want, atol=1e-12)


def test_nonlinear_operators():
    x = torch.randn(2, 1, 4, 4)
    assert torch.allclose(PhaseRetrieval(2).A(x).flatten(1).norm(dim=1), x.flatten(1).norm(dim=1))  # Parseval
    assert torch.allclose(PhaseRetrieval().A(x), PhaseRetrieval().A(-x))
    assert torch.equal(Clipping(gain=2.0).A(x), (2 * x).clamp(-1, 1))
    assert torch.equal(NonLinear(torch.sin).A(x), x.sin())
    for op in (PhaseRetrieval(1), Clipping(), NonLinear(torch.tanh)):
        m = Measurement(op, op.A(x), 0.1)
        assert torch.allclose(m(x), torch.zeros(2), atol=1e-20) and m(x + 0.1).shape == (2,)


# pictures of latents
# ----------------------------------------------------------------------------------------------------------

SEEING, DECODING = (
    torch.randn(2, 6, generator=torch.Generator().manual_seed(3)).double(),
    torch.randn(6, 4, generator=torch.Generator().manual_seed(4)).double(),
)


def decode(x):
    """Four latents to a picture of six pixels, and by a linear map, so that what is measured of it is a `Matrix`."""
    return x @ DECODING.T


def on_a_loss(measurement):
    nats = measurement.nats
    return {
        "DPS": DPS(measurement),
        "MPGD": guidance.MPGD(nats),
        "FreeDoM": guidance.FreeDoM(measurement),
        "LGD": guidance.LGD(nats, 2),
        "FlowChef": guidance.FlowChef(nats),
        "DataGuidance": guidance.DataGuidance(nats),
        "Universal": guidance.Universal(nats),
        "Lookahead": guidance.Lookahead(nats, 2),
        "Greedy": guidance.Greedy(measurement, 3),
        "TFG": guidance.TFG(nats, mu=guidance.Damped(guidance.Tweedie()), iterations=2),
        "DAPS": guidance.DAPS(measurement, 2, langevin=3),
    }


@pytest.mark.parametrize("name", on_a_loss(Measurement(Matrix(SEEING), torch.zeros(1, 2), 0.3)))
@pytest.mark.parametrize("at_once", [None, 2])
def test_guides_on_a_loss_see_the_picture(name, at_once):
    """With a linear decoder every one does what it does with the product of the two matrices."""
    y, x = torch.randn(3, 2), torch.randn(3, 4)
    model = Gaussian(torch.randn(4), 0.8).denoiser(PROCESS)
    plan = DDIM(1.0).plan(PROCESS, UniformLambda(6, start=0.99, end=0.02))
    of_pictures = Measurement(Decoded(decode, Matrix(SEEING), at_once), y, 0.3)
    of_latents = Measurement(NonLinear(Matrix(SEEING @ DECODING).A), y, 0.3)
    found, wanted = (
        steer(model, plan, x, on_a_loss(m)[name], noise=Addressed(1), draws=Addressed(2)).sample
        for m in (of_pictures, of_latents)
    )
    assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("guide", [PiGDM, TMPD, DDNM, guidance.MCG, DiffPIR], ids=lambda g: g.__name__)
def test_guides_on_a_linear_operator_refuse_pictures(guide):
    measured = Measurement(Decoded(decode, Matrix(SEEING)), torch.zeros(1, 2), 0.3)
    with pytest.raises(
        ValueError, match=r"got Decoded without `A_.*use a guide on a loss \(DPS, LGD, MPGD\)"
    ):
        steer(Gaussian(torch.zeros(4), 1.0).denoiser(PROCESS), PLAN, torch.zeros(2, 4), guide(measured))


def test_a_decoded_measurement_has_the_operators_noise():
    physics = Matrix(SEEING, noise_model=GaussianNoise(0.25))
    assert Measurement(Decoded(decode, physics), torch.zeros(1, 2)).std == 0.25


def test_pictures_of_a_decoder_in_half_precision_are_measured_in_the_latents():
    """Their sum of squares would have three digits else."""
    x, y = torch.randn(3, 4).float(), torch.randn(3, 2).float()
    half = Measurement(Decoded(lambda x: decode(x.double()).bfloat16(), Matrix(SEEING)), y, 0.3)
    rounded = decode(x.double()).bfloat16().double() @ SEEING.T
    assert half(x).dtype == torch.float32
    assert torch.allclose(half(x).double(), (y - rounded).square().sum(1), rtol=1e-6)


@pytest.mark.parametrize("at_once", [1, 2, 3, 7])
def test_pictures_are_made_so_many_at_once(at_once):
    """Same values and gradients; a gradient decodes twice, and no more than `at_once` pictures in a call."""
    sizes = []

    def watched(x):
        sizes.append(len(x))
        return decode(x).tanh()

    whole, parts = Decoded(watched, Matrix(SEEING)), Decoded(watched, Matrix(SEEING), at_once)
    x = torch.randn(5, 4, requires_grad=True)
    slopes = [torch.autograd.grad(op.A(x).square().sum(), x)[0] for op in (whole, parts)]
    assert torch.allclose(*slopes, rtol=1e-12)
    assert sizes[0] == 5 and max(sizes[1:]) == min(at_once, 5) and sum(sizes) == 15
    sizes.clear()
    with torch.no_grad():
        assert torch.allclose(parts.A(x), whole.A(x), rtol=1e-12)
    assert sum(sizes) == 10


def test_a_checkpointed_decoder_keeps_no_activations():
    kept = []

    def packed(value):
        kept.append(value.numel())
        return value

    def held(operator, x):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(packed, lambda value: value):
            operator.pictures(x)
        return sum(kept)

    deep = torch.nn.Sequential(
        *[torch.nn.Linear(32, 32).requires_grad_(False) for _ in range(8)], torch.nn.Tanh()
    )
    deep = torch.nn.Sequential(*[part for layer in deep for part in (layer, torch.nn.Tanh())])
    x = torch.randn(4, 32, requires_grad=True)
    assert held(Decoded(deep, Matrix(SEEING)), x) > 8 * x.numel()
    assert held(Decoded(deep, Matrix(SEEING), 1), x) <= x.numel()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Decoded(object(), Mask(torch.ones(4))), "decode"),  # type: ignore[arg-type]
        (lambda: Decoded(decode, Matrix), "expected an operator on pictures"),
        (lambda: Decoded(decode, torch.tanh), r"or NonLinear\(function\)"),
        (lambda: Decoded(decode, Measurement(Matrix(SEEING), torch.zeros(1, 2), 0.1)), "measurement.physics"),
        (lambda: Decoded(decode, Matrix(SEEING), 0), "at_once: got 0"),
    ],
    ids=range(5),
)
def test_what_no_picture_is_measured_by(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_a_measurement_knows_its_noise_and_its_loss():
    op, x = Matrix(torch.eye(3)[:2], noise_model=GaussianNoise(0.5)), torch.randn(4, 3)
    m = Measurement.of(op, x, Addressed(1))
    noise = Addressed(1)(0, op.A(x))
    assert m.std == 0.5 and torch.equal(m.y, op.A(x) + 0.5 * noise)
    assert torch.allclose(m(x), 0.25 * noise.square().sum(1)) and torch.allclose(
        m.nats(x), noise.square().sum(1) / 2
    )


class Foreign:
    """A physics as another library might write it: names alone."""

    def __init__(self, matrix, sigma):
        self.matrix, self.noise_model = matrix, types.SimpleNamespace(sigma=torch.tensor(sigma))

    def A(self, x, **kwargs):
        return x @ self.matrix.T

    def A_adjoint(self, y, **kwargs):
        return y @ self.matrix

    def A_dagger(self, y, **kwargs):
        return y @ torch.linalg.pinv(self.matrix).T


PROCESS = VP()
PLAN = DDIM().plan(PROCESS, UniformLambda(6, start=0.99, end=0.02))


@pytest.mark.parametrize("guide", [DPS, PiGDM, TMPD, DDNM, DiffPIR], ids=lambda g: g.__name__)
def test_a_foreign_physics_gives_what_ours_gives(guide):
    matrix, y, x = torch.randn(2, 4), torch.randn(3, 2), torch.randn(3, 4)
    model = Gaussian(torch.randn(4), 0.8).denoiser(PROCESS)
    ours = steer(model, PLAN, x, guide(Measurement(Matrix(matrix), y, 0.3)))
    foreign = steer(model, PLAN, x, guide(Measurement(Foreign(matrix, 0.3), y)))
    assert torch.allclose(ours.sample, foreign.sample, atol=1e-7)


@pytest.fixture
def dinv():
    """deepinv, which asks for torchvision; these parts of it do not."""
    with torchvision_stand_in():
        yield importlib.import_module("deepinv")


def test_deepinv_physics_work_unmodified(dinv):
    x = torch.randn(2, 1, 8, 8)
    mask = (torch.rand(1, 8, 8) > 0.5).double()
    model = Gaussian(torch.zeros(64), 1.0).denoiser(PROCESS)
    noise = dinv.physics.GaussianNoise(sigma=0.1)
    for theirs, ours in (
        (dinv.physics.Inpainting((1, 8, 8), mask=mask, noise_model=noise), Mask(mask)),
        (dinv.physics.Downsampling((1, 8, 8), factor=2, filter=None, noise_model=noise), None),
    ):
        theirs = theirs.double()
        y = theirs.A(x)
        m = Measurement(theirs, y)
        assert m.std == pytest.approx(0.1)
        for guide in (DPS, PiGDM, DDNM, DiffPIR):
            found = steer(
                model, PLAN, torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)), guide(m)
            ).sample
            assert bool(found.isfinite().all())
            if ours is not None:
                same = steer(
                    model,
                    PLAN,
                    torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)),
                    guide(Measurement(ours, y, 0.1)),
                ).sample
                assert torch.allclose(found, same, atol=1e-6)


X = torch.zeros(2, 3, dtype=torch.float64)
GOOD = Measurement(Matrix(torch.eye(3, dtype=torch.float64)[:2]), torch.zeros(2, 2, dtype=torch.float64), 0.1)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: GaussianNoise(-1.0), "sigma: got -1.0"),
        (
            lambda: Measurement(Matrix(torch.eye(3)), torch.zeros(2, 3)).__class__(
                object(), torch.zeros(2, 3)
            ),
            "without `A`",
        ),
        (lambda: Measurement(Foreign(torch.eye(3), -0.5), torch.zeros(2, 3)), "noise_std: got -0.5"),
        (lambda: Measurement(Foreign(torch.eye(3), float("nan")), torch.zeros(2, 3)), "noise_std: got nan"),
        (lambda: Measurement(NonLinear(torch.sin), torch.zeros(3), 0.1), "add a batch axis"),
        (lambda: Measurement(types.SimpleNamespace(A=torch.sin), torch.zeros(2, 3)), "pass noise_std"),
        (
            lambda: Measurement(GOOD.physics, torch.zeros(2, 5), 0.1).check(X),
            r"y: got shape \(2, 5\), expected \(2, 2\)",
        ),
        (lambda: Measurement(GOOD.physics, torch.zeros(3, 2), 0.1).check(X), r"y: got shape \(3, 2\)"),
        (lambda: GOOD.check(torch.zeros(2, 7)), r"does not take samples of shape \(2, 7\)"),
        (
            lambda: Measurement(NonLinear(torch.sin), torch.zeros(2, 3), 0.1).check(X, "A_adjoint"),
            "without `A_adjoint`",
        ),
        (lambda: Measurement(GOOD.physics, GOOD.y, 0.0).check(X, noisy=True), "expected s_y > 0"),
        (lambda: Matrix(torch.eye(3), (2, 2)), "d = prod"),
        (lambda: Blur(torch.ones(3)), "expected \\(h, w\\)"),
        (lambda: Blur(torch.ones(3, 3)).A(torch.zeros(1, 1, 2, 8)), "no smaller than the kernel"),
        (lambda: Downsample(0), "at least 1"),
        (lambda: Downsample(3).A(torch.zeros(1, 1, 8, 8)), "multiples of 3"),
        (lambda: Clipping(1.0, 0.0), "low < high"),
        (lambda: PhaseRetrieval(-1), "at least 0"),
        (lambda: PhaseRetrieval().A(torch.zeros(2, 3)), r"expected \(B, C, H, W\)"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# a measurement that does not fit
# -----------------------------------------------------------------------------------------------------------

FIT = torch.randn(3, 4, generator=torch.Generator().manual_seed(8))


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (2, 2), (1, 3), (6, 2), (3, 2, 1)], ids=str)
@pytest.mark.parametrize(
    "make",
    [DPS, lambda m: DPS(m.nats), guidance.FlowChef, lambda m: guidance.REDdiff(m.nats), guidance.MPGD, guidance.FreeDoM,
     lambda m: guidance.LGD(m.nats), guidance.Universal, lambda m: guidance.Lookahead(m.nats, 2), guidance.Greedy,
     lambda m: guidance.DataGuidance(m.nats), guidance.TFG.dps, PiGDM, TMPD, DDNM, DiffPIR, guidance.MCG,
     guidance.DAPS],
)  # fmt: skip
def test_a_measurement_of_another_shape_is_named_in_every_guide(make, shape):
    """What merely broadcasts is refused too: y of (1, 1) on measurements (3, 2) gave a sample without a word."""
    calls, exact = [], Gaussian(torch.zeros(4), 1.0).denoiser(VP())

    def network(x, t):
        calls.append(len(x))
        return exact(x, t)

    seen = Measurement(Matrix(torch.ones(2, 4)), torch.zeros(shape), 0.3)
    model, plan = Denoiser(network, VP(), DATA), DDIM().plan(VP(), UniformLambda(4, start=0.98, end=0.03))
    words = rf"y: got shape {re.escape(str(shape))}, expected \(3, 2\), what the physics makes of samples \(3, 4\)"
    with pytest.raises(ValueError, match=words + r", or \(1, \.\.\.\); measure with the same operator"):
        steer(model, plan, FIT.double(), make(seen), draws=Addressed(0))
    assert len(calls) <= 2  # at the first evaluation at the latest


def test_a_measurement_for_all_samples_is_as_many_copies():
    one, many = (
        Measurement(Matrix(torch.ones(2, 4)), y, 0.3) for y in (torch.zeros(1, 2), torch.zeros(3, 2))
    )
    assert torch.equal(one(FIT), many(FIT))


def test_rows_that_say_nothing():
    mask = torch.zeros(2, 3)
    mask[0, 1] = mask[1, 2] = 0.5
    hidden = Measurement(Mask(mask), torch.zeros(1, 2, 3), 0.1)
    assert hidden.rows(torch.zeros(4, 2, 3)) == [1, 5]
    difference = Measurement(
        Matrix(torch.tensor([[1.0, -1.0], [0.0, 0.0], [1.0, 1.0]])), torch.zeros(1, 3), 0.1
    )
    for dtype in (torch.float32, torch.float64):
        assert difference.rows(torch.zeros(1, 2, dtype=dtype)) == [0, 2]
    apart = Measurement(Mask(torch.eye(3)), torch.zeros(1, 3), 0.1)  # a mask for each sample: seen in any
    assert apart.rows(torch.zeros(3, 3)) == [0, 1, 2]


def test_a_measurement_repeated_keeps_one_row_for_all():
    y = torch.tensor([[1.0], [2.0]])
    seen = Measurement(Matrix(torch.ones(1, 4)), y, 0.3)
    assert torch.equal(seen.repeated(3).y[:, 0], torch.tensor([1.0, 1, 1, 2, 2, 2]))
    one = Measurement(Matrix(torch.ones(1, 4)), y[:1], 0.3)
    assert one.repeated(3) is one


def test_a_matrix_keeps_nothing_of_a_former_a():
    a = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y, op = torch.ones(1, 3, dtype=torch.float64), Matrix(a)
    before = op.A_dagger(y)
    a[0].mul_(2.0)
    torch.testing.assert_close(op.A_dagger(y), Matrix(a.clone()).A_dagger(y))
    assert not torch.equal(op.A_dagger(y), before)
    with torch.inference_mode():
        Matrix(a.clone()).A_dagger(y)
        op.A_dagger(y)
    a.requires_grad_()
    with torch.no_grad():
        op.A_dagger(y)  # a run without gradients comes first
    for _ in range(2):  # a training loop: every backward pass has a graph of its own
        (slope,) = torch.autograd.grad(op.A_dagger(y).square().sum(), a)
        (expected,) = torch.autograd.grad((torch.linalg.pinv(a) @ y[0]).square().sum(), a)
        torch.testing.assert_close(slope, expected)
