"""Rewards: values by hand, gradients against finite differences, the algebra of combinations, CLIP against
transformers.
"""

import io
import pathlib
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pullback.guidance import (
    Brightness,
    ClassifierReward,
    DecodedReward,
    EmbeddingSimilarity,
    FunctionReward,
    JPEGSize,
    LinearReward,
    QuadraticReward,
    Reward,
    Saturation,
)
from pullback.guidance.rewards import evaluate_reward
from pullback.guidance.rewards.asked import MeteredReward
from pullback.solvers import Mixture
from pullback.zoo import load

LAW = Mixture(
    torch.tensor([0.3, 0.7], dtype=torch.float64),
    torch.tensor([[-1.0, 0.5], [1.2, -0.3]], dtype=torch.float64),
    torch.tensor([[[0.5, 0.2], [0.2, 0.3]], [[0.4, 0.0], [0.0, 0.1]]], dtype=torch.float64),
)
CENTRE = torch.tensor([0.4, -0.2], dtype=torch.float64)


def images(count=4, side=8, channels=1):
    return torch.randn(count, channels, side, side) * 0.5


def linear(out=5):
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, out))


def scorers():
    labels = torch.tensor([3, 1, 0, 2])
    return {
        "classifier": (ClassifierReward(linear()), labels),
        "classifier, one class": (ClassifierReward(linear(), label=2, log=False), None),
        "classifier, picked": (
            ClassifierReward(linear(), pick=lambda context: context["label"]),
            {"label": labels},
        ),
        "similarity": (EmbeddingSimilarity(linear(), torch.randn(5)), None),
        "similarity, own references": (EmbeddingSimilarity(linear()), torch.randn(4, 5)),
        "brightness": (Brightness(), None),
        "linear": (LinearReward(torch.randn(64)), None),
        "quadratic": (QuadraticReward(torch.randn(1, 8, 8), 2.0), None),
        "sum": (Brightness() + 0.3 * QuadraticReward(torch.zeros(64)) - 2, None),
        "product": (Brightness() * ClassifierReward(linear(), label=1), None),
        "clip": (QuadraticReward(torch.zeros(64)).clip(-1e3, 0.0).normalise(-4.0, 3.0), None),
        "callable": ((lambda x, context: x.flatten(1).sin().sum(1)) + Brightness(), None),
    }


def split(context, b):
    if isinstance(context, dict):
        return {name: value[b : b + 1] for name, value in context.items()}
    return context[b : b + 1] if isinstance(context, torch.Tensor) else context


@pytest.mark.parametrize("name", scorers())
def test_gradient_is_that_of_finite_differences_and_batch_mates_do_not_matter(name):
    reward, context = scorers()[name]
    x = images().requires_grad_()
    value = reward(x, context)
    assert reward.differentiable and value.shape == (4,)
    grad = torch.autograd.grad(value.sum(), x)[0]
    way, h = torch.randn_like(x), 1e-5
    with torch.no_grad():
        slope = (reward(x + h * way, context) - reward(x - h * way, context)) / (2 * h)
    assert (
        torch.allclose(slope, (grad * way).flatten(1).sum(1), rtol=1e-6, atol=1e-9)
        and float(slope.abs().min()) > 1e-6
    )
    for b in range(4):
        assert torch.allclose(
            reward(x[b : b + 1], split(context, b)), value[b : b + 1], rtol=1e-12, atol=1e-12
        )


def test_values_by_hand():
    x = torch.tensor([[[[-1.0, 1.0], [0.0, 1.0]]], [[[2.0, 2.0], [-3.0, 0.0]]]])
    assert torch.allclose(Brightness()(x), torch.tensor([0.625, 0.625]))
    assert torch.allclose(Brightness(low=0.0)(x), torch.tensor([0.25, 0.25]))
    assert Saturation()(x).tolist() == [0.0, 0.75]
    assert torch.allclose(LinearReward(torch.tensor([1.0, 2.0, 3.0, 4.0]), 5.0)(x), torch.tensor([10.0, 2.0]))
    assert torch.allclose(QuadraticReward(torch.ones(2, 2), 2.0)(x), torch.tensor([-5.0, -19.0]))
    layer = nn.Linear(4, 2, bias=False)
    network = nn.Sequential(nn.Flatten(), layer)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]))
    softplus = torch.tensor([-0.126928, -0.693147])  # -log(1 + e^-2), -log 2
    assert torch.allclose(ClassifierReward(network, label=1)(x), softplus, atol=1e-6)
    assert torch.allclose(
        ClassifierReward(network, label=1, log=False)(x), torch.tensor([0.880797, 0.5]), atol=1e-6
    )
    assert torch.allclose(
        EmbeddingSimilarity(network, torch.tensor([0.0, 3.0]))(x), torch.tensor([0.5**0.5, 0.5**0.5])
    )


def test_bundled_classifier_in_a_reward():
    x = images().float()
    network = load("classifier0")
    right = -F.cross_entropy(network(x), torch.full((4,), 4), reduction="none")
    assert torch.allclose(ClassifierReward(network, label=4)(x), right)


def test_algebra():
    a, b, x = Brightness(), QuadraticReward(torch.zeros(64)), images()
    u, v = a(x), b(x)

    def close(reward, value):
        assert isinstance(reward, Reward) and torch.allclose(reward(x), value, rtol=1e-13, atol=1e-13)

    def plain(samples, context):
        return samples.flatten(1).amax(1)

    close(a + b, u + v)
    close(a - b, u - v)
    close(a * b, u * v)
    close(2 * a - 3, 2 * u - 3)
    close(1 - a, 1 - u)
    close(-a * 0.5, -u / 2)
    close((a + b) * 3, 3 * a(x) + 3 * b(x))
    close(plain + a, plain(x, None) + u)
    close(a + plain, plain(x, None) + u)
    close(a - plain, u - plain(x, None))
    close(plain - a, plain(x, None) - u)
    close(plain * a, plain(x, None) * u)
    close(b.clip(-20.0, -1.0), v.clamp(-20, -1))
    close(b.clip(hi=-30.0), v.clamp(max=-30))
    close(b.normalise(-30.0, 4.0), (v + 30) / 4)
    assert (
        (a + b).differentiable
        and not (a + JPEGSize()).differentiable
        and not (JPEGSize() * 2).clip(0.0, 1.0).differentiable
    )


def test_clip_has_no_gradient_outside():
    x = torch.tensor([[0.1, 0.1], [4.0, 4.0]], requires_grad=True)
    grad = torch.autograd.grad(QuadraticReward(torch.zeros(2)).clip(-1.0, 0.0)(x).sum(), x)[0]
    assert torch.equal(grad[1], torch.zeros(2)) and torch.allclose(grad[0], -x[0])


def test_jpeg_size_is_that_of_a_file():
    grey, colour = images(3, 16), images(3, 16, channels=3)
    for x in (grey, colour, grey[:, 0]):
        sizes = JPEGSize(quality=80)(x)
        for image, size in zip(x, sizes, strict=True):
            pixels = (255 * ((image + 1) / 2).clamp(0, 1)).round().to(torch.uint8)
            pixels = pixels if pixels.ndim == 2 else pixels.permute(1, 2, 0).squeeze(-1)
            file = io.BytesIO()
            Image.fromarray(pixels.numpy()).save(file, format="JPEG", quality=80)
            assert float(size) == len(file.getvalue()) / 1000


def test_jpeg_size_knows_noise_from_emptiness():
    flat, smooth, noise = (
        torch.zeros(1, 1, 32, 32),
        torch.linspace(-1, 1, 32).expand(1, 1, 32, 32),
        images(1, 32),
    )
    sizes = [float(JPEGSize()(x)) for x in (flat, smooth, noise)]
    assert sizes == sorted(sizes) and sizes[2] > 2 * sizes[0]
    assert (
        float(JPEGSize(quality=30)(noise))
        < float(JPEGSize(quality=60)(noise))
        < float(JPEGSize(quality=95)(noise))
    )
    assert float(JPEGSize(low=-100.0, high=100.0)(noise)) < 0.5 * sizes[2]  # nearly grey in that range
    far = torch.where(noise > 0, 7.0, -7.0)
    assert torch.equal(JPEGSize()(far), JPEGSize()(far.clamp(-1, 1))) and Saturation()(far).tolist() == [1.0]
    many = torch.cat([flat, smooth, noise])
    assert torch.equal(JPEGSize()(many), torch.cat([JPEGSize()(x[None]) for x in many]))


@pytest.mark.parametrize(
    "reward", [LinearReward(CENTRE, 0.7), QuadraticReward(CENTRE, 1.5)], ids=["linear", "quadratic"]
)
def test_tilted_law_is_the_law_times_the_exponential_of_the_reward(reward):
    beta = 0.6
    tilted = reward.tilted(LAW, beta)
    x = torch.randn(50, 2)
    excess = log_density(tilted, x) - log_density(LAW, x) - reward(x) / beta
    assert float(excess.std()) < 1e-12  # the same constant everywhere: minus log of the mass of the tilt
    draws = torch.distributions.MultivariateNormal(LAW.means, LAW.covs).sample((400_000,))
    picks = torch.multinomial(LAW.weights, 400_000, replacement=True)
    mass = torch.exp(reward(draws[torch.arange(400_000), picks]) / beta)
    assert abs(float(mass.mean().log() + excess[0])) < 5 * float(mass.std() / mass.mean()) / 400_000**0.5


def log_density(law, x):
    parts = torch.distributions.MultivariateNormal(law.means, law.covs).log_prob(x[:, None])
    return (parts + law.log_weights).logsumexp(1)


X = torch.zeros(2, 1, 8, 8, dtype=torch.float64)


class Halves(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :3]


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: Brightness()(X[0, 0, 0]), ValueError, "batch axis"),
        (lambda: Brightness()(X.long()), ValueError, "floating point"),
        (lambda: FunctionReward(lambda x, c: x.sum())(X), ValueError, r"got a reward of shape \(\)"),
        (
            lambda: (Brightness() + (lambda x, c: x.flatten(2).sum(2)))(X),
            ValueError,
            r"got a reward of shape \(2, 1\)",
        ),
        (lambda: (Brightness() * float("nan"))(X), ValueError, "scale: got nan, expected a number"),
        (lambda: Brightness()(X * float("nan")), FloatingPointError, r"samples \[0, 1\]"),
        (
            lambda: JPEGSize()(X.index_fill(0, torch.tensor([1]), float("nan"))),
            FloatingPointError,
            r"samples \[1\]",
        ),
        (lambda: JPEGSize()(X.clone().requires_grad_()), ValueError, "no gradient; use an objective"),
        (lambda: (Brightness() - JPEGSize())(X.clone().requires_grad_()), ValueError, "no gradient"),
        (
            lambda: FunctionReward(lambda x, c: x.detach().sum((1, 2, 3)))(X.clone().requires_grad_()),
            ValueError,
            "without a graph",
        ),
        (lambda: JPEGSize()(X.expand(2, 2, 8, 8)), ValueError, "1 or 3"),
        (lambda: JPEGSize(low=1.0), ValueError, "low < high"),
        (lambda: Brightness().clip(2.0, 1.0), ValueError, "lo < hi"),
        (lambda: Brightness().normalise(0.0, 0.0), ValueError, "std=0.0"),
        (lambda: QuadraticReward(torch.zeros(2), -1.0), ValueError, "scale=-1.0"),
        (lambda: QuadraticReward(torch.zeros(2))(X), ValueError, "64 entries"),
        (lambda: LinearReward(CENTRE).tilted(LAW, 0.0), ValueError, "beta"),
        (lambda: ClassifierReward(Halves())(X), ValueError, "labels None"),
        (lambda: ClassifierReward(Halves())(X, torch.zeros(2)), ValueError, "expected integers"),
        (lambda: ClassifierReward(Halves(), label=3)(X), ValueError, "labels 3 .. 3"),
        (lambda: ClassifierReward(Halves(), label=-1)(X), ValueError, "labels -1 .. -1"),
        (
            lambda: ClassifierReward(nn.Sequential(nn.Dropout(), Halves()), label=1)(X),
            ValueError,
            "train mode",
        ),
        (lambda: EmbeddingSimilarity(Halves())(X), ValueError, "reference None"),
        (lambda: EmbeddingSimilarity(Halves(), torch.zeros(4))(X), ValueError, r"reference \(4,\)"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_no_gradient_is_needed_where_none_is_asked_for():
    x = X.clone().requires_grad_()
    with torch.no_grad():
        assert JPEGSize()(x).shape == (2,)
    assert JPEGSize()(x.detach()).shape == (2,) and FunctionReward(lambda x, c: x.detach().sum((1, 2, 3)))(
        X
    ).shape == (2,)


def test_importing_guidance_imports_no_scorers():
    code = (
        f"import sys; sys.path.insert(0, {str(pathlib.Path(__file__).parents[2])!r}); import conftest, "
        "pullback.guidance; assert not {'transformers', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class Waits(TorchDispatchMode):
    """Counts the numbers that are asked back from the device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("ask", [
    lambda reward, x: reward(x),
    lambda reward, x: evaluate_reward(reward, x),
    lambda reward, x: MeteredReward(reward)(x),
    lambda reward, x: evaluate_reward(MeteredReward(reward), x, differentiable=True),
])  # fmt: skip
@pytest.mark.parametrize("parts", [1, 3])
def test_a_reward_waits_for_the_device_once(ask, parts):
    """Whoever asks, and whatever the sum has for parts."""
    reward = FunctionReward(lambda x, context: x.sum(1))
    for _ in range(parts - 1):
        reward = (reward * 2.0 + FunctionReward(lambda x, context: x.square().sum(1))).clip(-1e3, 1e3)
    with Waits() as waits:
        ask(reward, torch.randn(4, 3).requires_grad_())
    assert waits.count == 1


def test_a_bound_takes_an_infinite_reward():
    reward = FunctionReward(lambda x, context: x[:, 0].log())
    x = torch.tensor([[0.0], [1.0]])
    with pytest.raises(FloatingPointError, match="clip"):
        reward(x)
    assert reward.clip(-5.0, 5.0)(x).tolist() == [-5.0, 0.0]
    with pytest.raises(FloatingPointError):
        reward.clip(-5.0, 5.0)(-x - 1)


def test_a_decoded_reward_is_of_the_picture():
    """reward(decode(x)), its gradient in x, and whether it has one."""
    reward = DecodedReward(
        lambda x: 2 * x + 1, FunctionReward(lambda x, context: context * x.square().sum(1))
    )
    x, weight = torch.randn(3, 4).requires_grad_(), torch.tensor([1.0, 2.0, 3.0])
    (gradient,) = torch.autograd.grad(reward(x, weight).sum(), x)
    assert torch.allclose(gradient, 4 * weight[:, None] * (2 * x + 1))
    assert reward.differentiable
    assert not DecodedReward(
        torch.round, FunctionReward(lambda x, c: x.sum(1), has_gradient=False)
    ).differentiable
