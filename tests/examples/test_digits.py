"""Training of the 28x28 models continues where it stopped; the figures that judge digits are what they say."""

import pytest
import torch
import train_mnist
from digit_samples import frechet
from restore_digits import NOISE, posterior_mean

from pullback.solvers import Mixture


@pytest.fixture(autouse=True)
def single_precision():
    torch.set_default_dtype(torch.float32)  # as a user trains; the suite's fixture restores float64


def test_a_stopped_run_ends_where_it_would_have(tmp_path, monkeypatch):
    monkeypatch.setattr(train_mnist, "BATCH", 4)
    monkeypatch.setattr(train_mnist, "SAVE_EVERY", 2)
    images, labels = torch.randn(8, 1, 28, 28), torch.arange(8)
    folders = [tmp_path / name for name in ("whole", "stopped")]
    for folder in folders:
        folder.mkdir()

    def training(folder):
        return train_mnist.Training("mnist", 4, folder)

    whole, stopped = training(folders[0]), training(folders[1])
    whole.run(images, labels)

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.print", interrupt)  # the report after the first checkpoint
    with pytest.raises(KeyboardInterrupt):
        stopped.run(images, labels)
    monkeypatch.undo()
    monkeypatch.setattr(train_mnist, "BATCH", 4)
    resumed = training(folders[1])
    assert resumed.step == 2
    resumed.run(images, labels)
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, resumed.average.state_dict()[name]), name


def test_frechet_distance_of_known_gaussians():
    a = torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shift = torch.arange(6.0)
    assert frechet(a, a) == pytest.approx(0.0, abs=1e-10)
    assert frechet(a, a + shift) == pytest.approx(float(shift.square().sum()))
    twice = float(torch.cov(a.T).trace() + a.mean(0).square().sum())  # tr(S + 4 S - 2 * 2 S) + |m|^2
    assert frechet(a, 2 * a) == pytest.approx(twice)


def test_the_posterior_mean_of_the_class_gaussians():
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(200, 1, 2, 2, generator=generator), torch.arange(200) % 10
    images = images + labels[:, None, None, None] / 5
    matrix, y = (
        torch.randn(3, 4, generator=generator).double(),
        torch.randn(6, 3, generator=generator).double(),
    )
    rows = [images[labels == k].flatten(1).double() for k in range(10)]
    covs = torch.stack([torch.cov(r.T) + 0.01 * torch.eye(4).double() for r in rows])
    prior = Mixture(torch.full((10,), 0.1).double(), torch.stack([r.mean(0) for r in rows]), covs)
    exact = torch.stack([prior.posterior(matrix, row, NOISE).mean for row in y])
    torch.testing.assert_close(posterior_mean(images, labels, matrix, y), exact)
