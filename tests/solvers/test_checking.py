"""`check` names prediction and time scale of networks of which both are known, and says so where nothing fits."""

from itertools import product

import pytest
import torch
from problems import thinned
from sklearn.datasets import load_digits

from pullback.solvers import (
    DATA,
    EDM,
    FLOW,
    NOISE,
    SCORE,
    VE,
    VP,
    Checked,
    CosineVP,
    Denoiser,
    DiscreteVP,
    LogNoiseLevel,
    Mixture,
    NoiseLevel,
    OwnTime,
    RectifiedFlow,
    Scaled,
    Trial,
    V,
    WholeLabels,
    check,
    convert,
)
from pullback.solvers.networks.checking import FITS, _levels
from pullback.zoo import denoiser, digit_images, mnist_images

LAW = Mixture.isotropic(
    torch.ones(3, dtype=torch.float64) / 3,
    torch.tensor([[0.5, 0.0, -0.5, 0.2], [-0.5, 0.3, 0.4, -0.2], [0.1, -0.7, 0.3, 0.6]], dtype=torch.float64),
    torch.tensor([0.2, 0.1, 0.15], dtype=torch.float64),
)
X0 = LAW.sample(64, torch.Generator().manual_seed(0))
TABLE = DiscreteVP(torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0))
PREDICTIONS = (NOISE, DATA, V, FLOW, SCORE)


def made(process, prediction, back=None):
    """The exact network of a prediction, told `back`'s argument in the place of t."""
    data = LAW.denoiser(process)

    def network(x, label):
        t = label if back is None else back(label)
        return convert(data(x, t), x, DATA, prediction, process, t)

    return network


@pytest.mark.parametrize(
    "case", thinned([*product((VP(), RectifiedFlow(), TABLE, CosineVP()), PREDICTIONS)]), ids=str
)
def test_every_prediction_is_named(case):
    """Declared wrongly, and the verdict is right; declared rightly, and so is `right`."""
    process, prediction = case
    network, other = made(process, prediction), V if prediction is NOISE else NOISE
    found = check(Denoiser(network, process, other), X0)
    assert not found.right and {trial.prediction for trial in found.fitting} == {prediction}, str(found)
    assert f"write Denoiser(..., {prediction.name}" in found.verdict
    assert any(isinstance(trial.label, OwnTime) for trial in found.fitting)
    found = check(Denoiser(network, process, prediction), X0)
    assert found.right and not found.doubts


@pytest.mark.parametrize("process", [EDM(), VE()], ids=repr)
def test_equal_predictions_are_both_named(process):
    """alpha = 1: v = eps - sigma x_0, and under EDM the velocity is eps itself."""
    found = check(Denoiser(made(process, NOISE), process, DATA), X0)
    assert {t.prediction for t in found.fitting} == ({NOISE, FLOW} if process == EDM() else {NOISE})


@pytest.mark.parametrize(
    "process, back, wanted",
    [
        (VP(), lambda s: s / 999, Scaled(999.0)),
        (VP(), lambda s: s / 1000, Scaled(1000.0)),
        (TABLE, lambda s: 999 * s, Scaled(1 / 999)),
        (VP(), lambda s: VP().time(-s.log()), NoiseLevel()),
        (VP(), lambda s: VP().time(-s), LogNoiseLevel()),
        (EDM(), lambda s: (4 * s).exp(), LogNoiseLevel(0.25)),
        (RectifiedFlow(), lambda s: 1 - s, Scaled(-1.0, offset=1.0)),
    ],
    ids=lambda v: repr(v) if not callable(v) or hasattr(v, "factor") else None,
)
def test_every_time_scale_is_named(process, back, wanted):
    network = made(process, DATA, lambda s: back(s).clamp(process.t_min + 1e-6, process.t_max))
    found = check(Denoiser(network, process, DATA), X0)
    assert wanted in [trial.label for trial in found.fitting], str(found)
    assert not found.right
    assert check(Denoiser(network, process, DATA, label=wanted), X0).right


def test_a_velocity_towards_the_data_is_named():
    """As flow_matching, torchcfm and SiT have it: t = 1 at the data, and dx/dt of that clock."""
    velocity = made(RectifiedFlow(), FLOW, lambda s: 1 - s)
    found = check(Denoiser(lambda x, s: -velocity(x, s), RectifiedFlow(), FLOW), X0)
    assert found.verdict.endswith("write Denoiser(..., -FLOW, label=Scaled(-1.0, offset=1.0))"), str(found)


def test_the_loss_is_over_the_variance_of_the_data():
    """Of the data's own mean, for two samples: their mean square is half of their variance without bias."""
    x0 = X0[:2]
    mean = x0.mean(0)
    network = Denoiser(lambda x, t: mean + 0 * x, VP(), DATA)
    (own,) = (trial for trial in check(network, x0).trials if trial.declared)
    centred = Denoiser(lambda x, t: 0 * x, VP(), DATA)
    (zero,) = (trial for trial in check(centred, x0 - mean).trials if trial.declared)
    assert zero.loss == pytest.approx(0.5) and own.loss == pytest.approx(
        float((x0 - mean).square().mean() / x0.var(0).mean())
    )


def test_whole_labels_are_tried_where_a_network_takes_nothing_else():
    embedding = torch.nn.Embedding(1000, 1).requires_grad_(False)
    embedding.weight[:, 0] = torch.arange(1000.0)
    network = made(TABLE, NOISE)
    looked_up = Denoiser(lambda x, t: network(x, embedding(t)[:, 0]), TABLE, NOISE, label=WholeLabels())
    assert check(looked_up, X0).right


@pytest.mark.parametrize("name", ["digits", "digits_flow"])
def test_the_bundled_models_are_what_their_card_says(name):
    images = (
        torch.tensor(load_digits(return_X_y=True)[0][:64], dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1
    )
    model = denoiser(name)
    found = check(model, images)
    assert found.right and [t.prediction for t in found.fitting] == [model.prediction], str(found)
    wrong = check(Denoiser(model.network, model.process, NOISE), images)
    assert not wrong.right and wrong.verdict.endswith(f"write Denoiser(..., {model.prediction.name})")


def test_none_fits():
    """Noise, a constant, another process's network, data that says nothing: no guess is made."""
    wild = Denoiser(lambda x, t: torch.sin(30 * x), VP(), V)
    silent = Denoiser(lambda x, t: 0 * x, VP(), V)
    for model in (wild, silent):
        found = check(model, X0)
        assert not found.fitting and not found.right and found.verdict.startswith("none fits")
    white = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    exact = Mixture.isotropic(torch.ones(1), torch.zeros(1, 4), 1.0).denoiser(VP())
    nothing = Denoiser(lambda x, t: convert(exact(x, t), x, DATA, V, VP(), t), VP(), V)
    assert check(nothing, white).verdict.startswith("none fits")  # v is unpredictable: the network is 0


@pytest.mark.parametrize("loss, fits", [(FITS - 1e-9, True), (FITS, True), (FITS + 1e-9, False)])
def test_a_tenth_below_the_best_constant_fits(loss, fits):
    found = Checked((Trial(V, OwnTime(), True, torch.full((8,), loss), 0.0),))
    assert bool(found.fitting) == found.right == fits and FITS == 0.9


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_another_table_of_noise_than_the_networks_is_doubted(name):
    """A network that learned on one schedule and is told another, a few parts in ten off: its prediction still fits."""
    model, x0 = denoiser(name), (digit_images if name == "digits" else mnist_images)()[0][:32].float()
    assert not check(model, x0).doubts
    other = (
        torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    )  # scaled linear for linear
    own = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    for betas, doubted in ((own, False), (other, True)):
        process = DiscreteVP(torch.cumprod(1 - betas, 0))

        # the network as it is at the own table's levels: V of the VP with the same alpha
        def network(x, t, process=DiscreteVP(torch.cumprod(1 - own, 0))):
            return model(x, model.process.time(process.lam(t)).to(x))

        found = check(Denoiser(network, process, model.prediction), x0)
        assert found.right and bool(found.doubts) == doubted, str(found)
    assert "table of alpha and sigma" in found.doubts[0] and found.doubts[0] in str(found)


def test_a_gradient_of_a_value_that_does_not_move_is_a_fault():
    """Rounding whose gradient is passed straight through: no share of a slope of 0 tells how far off it is."""

    def straight_through(x, t):
        return (x / 100).round().detach() + x - x.detach()

    (fault,) = check(Denoiser(straight_through, VP(), V), X0).faults
    assert fault.startswith("gradient: d output / dx is off")
    assert not check(Denoiser(lambda x, t: 0 * x, VP(), V), X0).faults


def test_the_levels_lie_where_data_and_noise_are_seen():
    """Midpoints of eight parts of lambda from -3 to 3, or of what the process has of that."""
    t = VP().time(torch.tensor([1.0, -5.0], dtype=torch.float64)).tolist()
    for process, low, high in ((VP(), -3.0, 3.0), (VP(t_min=t[0], t_max=t[1]), -3.0, 1.0)):
        want = torch.linspace(low, high, 17, dtype=torch.float64)[1::2]
        assert torch.allclose(process.lam(_levels(process)), want, atol=1e-9)


def test_it_prints_and_does_not_draw():
    """The table has all that fits and what is declared; the global generator stands still."""
    before = torch.get_rng_state()
    found = check(Denoiser(made(VP(), V), VP(), NOISE), X0)
    assert torch.equal(before, torch.get_rng_state())
    text = str(found)
    assert "<- declared" in text and text.splitlines()[1].startswith("V ") and found.verdict in text
    assert str(check(Denoiser(made(VP(), V), VP(), NOISE), X0)) == text


@pytest.mark.parametrize("count", [2, 4, 7])
@pytest.mark.parametrize("declared", [V, NOISE], ids=["right", "wrong"])
def test_few_samples_decide_nothing(count, declared):
    """Below eight the verdict was wrong for half of the seeds: none is given, and what to do is said."""
    found = check(Denoiser(made(VP(), V), VP(), declared), X0[:count])
    assert not found.right and found.verdict.startswith(
        f"inconclusive: got {count} samples, expected at least 8"
    )
    assert "pass more of x0" in str(found) and found.trials


def test_eight_samples_decide():
    for seed in range(6):
        x0 = LAW.sample(8, torch.Generator().manual_seed(seed))
        assert check(Denoiser(made(VP(), V), VP(), V), x0, seed=seed).right


@pytest.mark.parametrize("x0", [torch.ones(16, 4), torch.arange(4.0).expand(16, 4)], ids=["ones", "equal"])
def test_samples_that_are_all_the_same_are_refused(x0):
    with pytest.raises(ValueError, match="x0: got 16 samples that are all the same, expected data that vary"):
        check(Denoiser(made(VP(), V), VP(), V), x0)
