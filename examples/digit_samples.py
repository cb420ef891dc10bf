"""Samples of the two 28x28 models beside real digits, and how far either set is from them.

A classifier that neither model has met reads every sample; the Frechet distance is between Gaussians fitted to its 96
features. The baseline is a second set of real held-out digits, of the same size: what a perfect model would get.
"""

# %%
from typing import Any

import torch
from common import digits_grid, options, pyplot, write
from torch import Tensor

from pullback.adjoint import sample
from pullback.solvers import Addressed, ClassifierFree, DPMSolverPP, FlowMidpoint, Method, UniformT
from pullback.zoo import MNIST_HELD_OUT, MNIST_TRAIN, denoiser, load, mnist_images


def samplers(scale: float) -> dict[str, tuple[str, Method, Any]]:
    """By the name on the picture: the model, its method and its grid, 20 network evaluations each."""
    flow = ("mnist_flow", FlowMidpoint(), UniformT(10))
    return {
        "diffusion": ("mnist", DPMSolverPP(2), UniformT(20)),
        "rectified flow": flow,
        f"the same, guidance {scale:g}": flow,
    }


def frechet(a: Tensor, b: Tensor) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) of rows (N, d): the squared 2-Wasserstein distance of two
    Gaussians.
    """
    a, b = a.double(), b.double()
    first, second = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + first.trace() + second.trace() - 2 * cross)


def nearest(x: Tensor, real: Tensor) -> Tensor:
    """(B,): rms distance of each image to the closest of `real`."""
    return torch.cdist(x.flatten(1), real.flatten(1)).amin(1) / x[0].numel() ** 0.5


def main() -> None:
    run = options(__doc__, count=500, scale=2.0)
    images, labels = (value.to(run.device) for value in mnist_images())
    held, held_labels = images[MNIST_HELD_OUT], labels[MNIST_HELD_OUT]
    each = run.count // 10  # of every digit in every set: a chance surplus of ones is not a distance
    # two halves of the real digits, one to measure from and one to compare with
    halves = [
        torch.cat([(held_labels == digit).nonzero()[:, 0][half * each :][:each] for digit in range(10)])
        for half in (0, 1)
    ]
    judge: Any = load("mnist_classifier1").to(run.device)
    reference = held[halves[0]]
    sets = {"real, held out": (held[halves[1]], held_labels[halves[1]])}
    wanted = torch.arange(10 * each, device=run.device) % 10
    start = Addressed(run.seed).initial(torch.zeros(10 * each, 1, 28, 28, device=run.device))
    for name, (model_name, method, grid) in samplers(run.scale).items():
        plain = denoiser(model_name)
        plain.network.to(run.device)  # type: ignore[attr-defined]
        model = ClassifierFree(plain, run.scale, null=torch.tensor(10)) if "guidance" in name else plain
        plan = method.plan(model.process, grid)
        parts = zip(start.split(100), wanted.split(100), strict=True)
        drawn = [sample(model, plan, x, cond=y, gradient=None) for x, y in parts]
        sets[name] = (torch.cat(drawn).clamp(-1, 1), wanted)
    facts = {}
    with torch.no_grad():
        far = judge.features(reference)
        for name, (x, y) in sets.items():
            facts[name] = {
                "read_as_meant": float((judge(x).argmax(1) == y).double().mean()),
                "frechet": frechet(judge.features(x), far),
                "nearest_training_digit": float(nearest(x, images[MNIST_TRAIN]).mean()),
            }
            print(f"{name:24}" + "  ".join(f"{key} {value:.3f}" for key, value in facts[name].items()))
    write(run.out, "digit_samples", draw(sets, facts), {"count": 10 * each, "nfe": 20, **facts})


def draw(sets, facts):
    plt = pyplot()
    figure, axes = plt.subplots(1, len(sets), figsize=(4.4 * len(sets), 3.6))
    for axis, (name, (x, y)) in zip(axes, sets.items(), strict=True):
        firsts = [x[y == digit][:6] for digit in range(10)]  # the first six of each digit, unpicked
        count = min(len(images) for images in firsts)
        digits_grid(axis, [torch.stack([images[k] for images in firsts]) for k in range(count)])
        axis.set_title(name, fontsize=14)
        axis.set_xlabel(
            f"read as meant {facts[name]['read_as_meant']:.1%}\nFréchet distance {facts[name]['frechet']:.2f}",
            fontsize=12,
        )
    figure.subplots_adjust(wspace=0.06)
    return figure


if __name__ == "__main__":
    main()
