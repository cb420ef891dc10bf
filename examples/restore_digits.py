"""Restore 28x28 digits that the model never saw, by five guides; a classifier that no guide knows reads the results.

Two baselines need no network: the training digit that fits the measurement best, and the exact posterior mean under a
mixture of ten Gaussians, one fitted to each class. A mean minimises the squared error under its own prior; a draw,
which is what the guides give, cannot be expected to beat a mean by PSNR, and a mean need not look like a digit.
"""

# %%
import math

import torch
from common import options, pyplot, write
from restore_faces import psnr
from torch import Tensor
from torch.distributions import MultivariateNormal

from pullback.guidance import DDNM, DPS, MCG, DiffPIR, Downsample, Mask, Measurement, PiGDM, Residual, steer
from pullback.solvers import DDIM, Addressed
from pullback.zoo import MNIST_HELD_OUT, MNIST_TRAIN, denoiser, load, mnist_images

NOISE = 0.1
MEAN, NEAREST = "mixture's mean", "nearest training digit"


def posterior_mean(images: Tensor, labels: Tensor, matrix: Tensor, y: Tensor) -> Tensor:
    """E[x | y] (B, d) for y = matrix x + NOISE n (B, m), x from one Gaussian for each class, with its moments.

    0.01 on the diagonal of each covariance: some pixels are white in every training digit.
    """
    eye, means, logs = torch.eye(matrix.shape[1]).double(), [], []
    for digit in range(10):
        rows = images[labels == digit].flatten(1).double()
        mean, across = rows.mean(0), (torch.cov(rows.T) + 0.01 * eye) @ matrix.T
        seen = MultivariateNormal(matrix @ mean, matrix @ across + NOISE**2 * torch.eye(len(matrix)).double())
        means.append(mean + (y - seen.loc) @ torch.cholesky_solve(across.T, seen.scale_tril))
        logs.append(seen.log_prob(y) + math.log(len(rows)))
    weights = torch.stack(logs).softmax(0)
    return (weights[:, :, None] * torch.stack(means)).sum(0)


def main() -> None:
    run = options(__doc__, count=30, sampler_steps=40)
    images, labels = mnist_images()
    train, train_labels = images[MNIST_TRAIN], labels[MNIST_TRAIN]
    held, truth_labels = images[MNIST_HELD_OUT][: run.count], labels[MNIST_HELD_OUT][: run.count]
    truth = held.to(run.device)
    width = float(train.std())
    model, judge = denoiser("mnist"), load("mnist_classifier1").to(run.device)
    model.network.to(run.device)  # type: ignore[attr-defined]
    plan = DDIM(eta=1.0).plan(model.process, torch.linspace(1, 0, run.sampler_steps + 1, dtype=torch.float64))
    keep = torch.ones(1, 28, 28, device=run.device)
    keep[:, 8:20, 8:20] = 0
    found, pictures = {}, {}
    for problem, physics in {"the middle hidden": Mask(keep), "7x7 pixels seen": Downsample(4)}.items():
        seen = Measurement.of(physics, truth, Addressed(run.seed, stream=1), NOISE)
        guides = {
            "DPS": DPS(seen, Residual()),
            "MCG": MCG(seen, Residual()),
            "PiGDM": PiGDM(seen, data_std=width),  # its one number: the standard deviation of the data
            "DDNM": DDNM(seen),
            "DiffPIR": DiffPIR(seen),
        }
        shown, costs = {"measured": physics.A_dagger(seen.y).reshape(truth.shape)}, {}
        start = Addressed(run.seed).initial(torch.zeros_like(truth))
        for name, guide in guides.items():
            result = steer(model, plan, start, guide, noise=Addressed(run.seed))
            shown[name], costs[name] = result.sample, (result.nfe, result.vjps)
        fits = torch.cdist(seen.y.flatten(1), physics.A(train.to(run.device)).flatten(1))
        shown[NEAREST] = train[fits.argmin(1).cpu()].to(run.device)
        matrix = physics.A(torch.eye(784, device=run.device).reshape(784, 1, 28, 28)).flatten(1).T
        mean = posterior_mean(train, train_labels, matrix.double().cpu(), seen.y.flatten(1).double().cpu())
        shown[MEAN] = mean.to(truth).reshape(truth.shape)
        shown["truth"] = truth
        found[problem], pictures[problem] = {}, shown
        for name, x in shown.items():
            read = (judge(x).argmax(1).cpu() == truth_labels).double().mean()
            nfe, vjps = costs.get(name, (0, 0))
            row = {"psnr": float(psnr(x, truth).mean()), "read": float(read), "nfe": nfe, "vjps": vjps}
            found[problem][name] = row if name != "truth" else {"read": float(read)}
        print(problem)
        for name, row in found[problem].items():
            print(f"   {name:24}" + ", ".join(f"{key} {value:.2f}" for key, value in row.items()))
    facts = {"count": run.count, "noise_std": NOISE, "results": found}
    write(run.out, "restore_digits", draw(pictures, found, min(7, run.count)), facts)


def draw(pictures, found, count):
    plt = pyplot()
    names = list(next(iter(pictures.values())))
    figure, axes = plt.subplots(
        len(names), 2 * count + 1, figsize=(0.72 * (2 * count + 3), 0.74 * len(names)), squeeze=False,
        gridspec_kw={"width_ratios": [1] * count + [2.4] + [1] * count, "wspace": 0.05, "hspace": 0.05},
    )  # fmt: skip
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.patch.set_visible(False)
    for p, (problem, shown) in enumerate(pictures.items()):
        for r, name in enumerate(names):
            first = p * (count + 1)
            for k in range(count):
                axes[r, first + k].imshow(shown[name][k, 0].cpu(), cmap="gray_r", vmin=-1, vmax=1)
            row = found[problem][name]
            text = f"read {row['read']:.0%}" + (f"\n{row['psnr']:.1f} dB" if "psnr" in row else "")
            axes[r, first + count - 1].text(
                1.12, 0.5, text, transform=axes[r, first + count - 1].transAxes, fontsize=9, va="center"
            )
        axes[0, p * (count + 1) + count // 2].set_title(problem, fontsize=12)
    for r, name in enumerate(names):
        axes[r, 0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=11)
    return figure


if __name__ == "__main__":
    main()
