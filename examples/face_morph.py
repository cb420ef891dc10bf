"""The main job: a morph of two real faces whose latent is optimised by exact gradients through a 20-step sampler.

Two faces are inverted with the probability flow, their latents are joined by spherical interpolation, and the
latent in the middle is moved until a face embedder finds the sample equally close to both. Two embedders of
other seeds, which the loss never saw, judge the result.
"""

# %%
import resource
import time

import torch
import torch.nn.functional as F
from bundled import denoiser, load
from common import options, write
from data import face_images
from torch import Tensor

from pullback.adjoint import AdjointDEIS, Checkpoint, Continuous, Reversible, sample
from pullback.guidance import ChiPrior, adam, optimise
from pullback.solvers import DPMSolverPP, ReversibleHeun, Rising, UniformLambda

ENDS = {"start": 1.0, "end": 0.03}
# each with the method and the steps that make 20 network calls
GRADIENTS = {
    "checkpoint": (Checkpoint(), DPMSolverPP(2), 20),
    "reversible": (Reversible(), ReversibleHeun(), 19),
    "continuous": (Continuous(), DPMSolverPP(2), 20),
    "adjointdeis": (AdjointDEIS(), DPMSolverPP(2), 20),
}


def slerp(a: Tensor, b: Tensor, part: float = 0.5) -> Tensor:
    """Spherical interpolation of latents (B, ...)."""
    flat = [F.normalize(v.flatten(1), dim=1) for v in (a, b)]
    angle = (flat[0] * flat[1]).sum(1).clamp(-1, 1).acos().reshape(-1, *[1] * (a.ndim - 1))
    return (torch.sin((1 - part) * angle) * a + torch.sin(part * angle) * b) / torch.sin(angle)


def similarity(embedder: torch.nn.Module, image: Tensor, faces: Tensor) -> Tensor:
    """Cosine (2, B) of each image to both of its faces (2, B, ...)."""
    return torch.stack([(embedder(image) * embedder(face)).sum(1) for face in faces])


def main() -> None:
    run = options(__doc__, pairs=1, steps=60, first=41, second=42, gradient="checkpoint")
    if run.gradient not in GRADIENTS:
        raise SystemExit(f"--gradient: got {run.gradient!r}, expected one of {', '.join(GRADIENTS)}")
    strategy, method, steps = GRADIENTS[run.gradient]
    torch.manual_seed(run.seed)
    model, began = denoiser("faces"), time.time()
    model.network.to(run.device)  # type: ignore[attr-defined]
    loss_embedder, *judges = (load(f"embedder{k}").to(run.device) for k in range(3))
    images = face_images().to(run.device)
    if run.pairs == 1:
        pairs = torch.tensor([[run.first], [run.second]])
    else:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(run.seed))
        pairs = order[: 2 * run.pairs].reshape(2, run.pairs)
    faces = images[pairs]

    encode = DPMSolverPP(2).plan(model.process, Rising(UniformLambda(40, **ENDS)))
    decode = method.plan(model.process, UniformLambda(steps, **ENDS))
    latents = torch.stack([sample(model, encode, face, gradient=None) for face in faces])
    start = slerp(latents[0], latents[1])

    # a handful of fixed shifts and grains: the loss must not win by pixels that only its own embedder sees
    generator = torch.Generator().manual_seed(run.seed)
    grains = [
        ((dy, dx), 0.15 * torch.randn(1, 1, 25, 25, generator=generator).to(run.device))
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    ]

    def loss(image: Tensor) -> Tensor:
        near = torch.stack(
            [similarity(loss_embedder, image.roll(shift, (2, 3)) + grain, faces) for shift, grain in grains]
        ).mean(0)
        return -near.sum(0) - 2 * near.min(0).values

    result = optimise(
        model,
        decode,
        loss,
        start,
        steps=run.steps,
        optimiser=adam(0.02),
        prior=ChiPrior(0.02),
        gradient=strategy,
    )
    naive = sample(model, decode, start, gradient=None)
    rebuilt = [sample(model, decode, latent, gradient=None) for latent in latents]
    before = torch.stack([similarity(judge, naive, faces) for judge in judges]).mean(0)
    after = torch.stack([similarity(judge, result.sample, faces) for judge in judges]).mean(0)
    wins = int((after.min(0).values > before.min(0).values).sum())
    facts = {
        "gradient": run.gradient,
        "pairs": run.pairs,
        "wins": wins,
        "held_out_before": before.T.tolist(),
        "held_out_after": after.T.tolist(),
        "loss_embedder_after": similarity(loss_embedder, result.sample, faces).T.tolist(),
        "round_trip_rmse": float((torch.stack(rebuilt) - faces).square().mean().sqrt()),
        "nfe": result.nfe,
        "vjps": result.vjps,
        "seconds": round(time.time() - began, 1),
        "device": run.device,
        "peak_MiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print(
        f"held-out similarity to the two faces: interpolation {before[:, 0].tolist()}, optimised "
        f"{after[:, 0].tolist()}"
    )
    print(
        f"optimised beats interpolation on {wins} of {run.pairs} pairs by the smaller similarity; "
        f"{facts['nfe']} NFE, {facts['vjps']} VJPs, peak {facts['peak_MiB']} MiB, {facts['seconds']} s"
    )
    write(run.out, "face_morph", draw(faces, naive, result, before, after), facts)


def draw(faces, naive, result, before, after):
    """Both faces, the naive interpolation, the optimised morph, the loss, and the similarities."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(11, 5.2))
    grid = figure.add_gridspec(2, 4, height_ratios=(1.35, 1), hspace=0.12, wspace=0.35)
    columns = (
        ("face A", faces[0]),
        ("interpolated latent", naive),
        ("optimised latent", result.sample),
        ("face B", faces[1]),
    )
    for k, (title, image) in enumerate(columns):
        axis = figure.add_subplot(grid[0, k])
        axis.imshow(image[0, 0].cpu(), cmap="gray", vmin=-1, vmax=1, interpolation="bicubic")
        axis.set_title(title, fontsize=11)
        axis.axis("off")
    axis = figure.add_subplot(grid[1, :2])
    axis.plot(result.losses[:, 0].cpu(), color="#1f4e79")
    axis.set(xlabel="optimisation step", ylabel="loss")
    axis.spines[["top", "right"]].set_visible(False)
    axis = figure.add_subplot(grid[1, 2:])
    for k, (name, values, colour) in enumerate(
        (("interpolated", before, "#b0b0b0"), ("optimised", after, "#1f4e79"))
    ):
        bars = axis.bar([x + 0.36 * k for x in (0, 1)], values[:, 0].cpu(), 0.34, label=name, color=colour)
        axis.bar_label(bars, fmt="%.2f", fontsize=9)
    axis.set_xticks([0.18, 1.18], ["to face A", "to face B"])
    axis.set(ylabel="held-out cosine")
    axis.set_ylim(0, 1.25)
    axis.set_yticks([0, 0.5, 1])
    axis.legend(frameon=False, loc="upper center", ncols=2)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main()
