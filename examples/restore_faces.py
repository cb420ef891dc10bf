"""Restore faces that the bundled model never saw, by five guides and by the exact posterior mean under a
fitted mixture.

The mixture's posterior mean minimises the squared error under its own prior; a draw, which is what the guides
give, cannot be expected to beat a mean by PSNR.
"""

# %%
import torch
from common import options, pyplot, write
from torch import Tensor
from train import augment, held_out

from pullback.guidance import DDNM, DPS, MCG, DiffPIR, Downsample, Mask, Measurement, PiGDM, Residual, steer
from pullback.solvers import DDIM, Addressed, Mixture
from pullback.zoo import denoiser, face_images

NOISE = 0.05


def fitted(faces: Tensor, seed: int, copies: int) -> Mixture:
    """A mixture of two full Gaussians on the training faces, mirrored, turned, zoomed and shifted a little."""
    from sklearn.mixture import GaussianMixture

    more = augment(faces.repeat(copies, 1, 1, 1), torch.Generator().manual_seed(seed), mirror=True)
    rows = torch.cat([faces, more]).flatten(1).double().numpy()
    fit = GaussianMixture(2, reg_covar=0.003, max_iter=10, random_state=seed).fit(rows)
    weights, means, covs = (torch.as_tensor(v) for v in (fit.weights_, fit.means_, fit.covariances_))
    return Mixture(weights, means, (covs + covs.mT) / 2)


def psnr(x: Tensor, truth: Tensor) -> Tensor:
    """(B,), in decibels; the range of [-1, 1] is 2."""
    return 10 * torch.log10(4 / (x.clamp(-1, 1) - truth).flatten(1).square().mean(1))


def main() -> None:
    run = options(__doc__, count=6, seeds=2, sampler_steps=40, copies=20)
    images = face_images()
    train, test = held_out(len(images), 0.1)
    mixture = fitted(images[train], run.seed, run.copies)
    width = float(images[train].std())  # PiGDM's one number: the standard deviation of the data
    truth = images[test][: run.count].repeat(run.seeds, 1, 1, 1).to(run.device)
    model = denoiser("faces")
    model.network.to(run.device)  # type: ignore[attr-defined]
    plan = DDIM(eta=1.0).plan(model.process, torch.linspace(1, 0, run.sampler_steps + 1, dtype=torch.float64))
    mask = torch.ones(1, 25, 25, device=run.device)
    mask[:, 8:18, 5:20] = 0
    found, pictures = {}, {}
    for problem, physics in {"inpainting": Mask(mask), "super-resolution x5": Downsample(5)}.items():
        seen = Measurement.of(physics, truth, Addressed(run.seed, stream=1), NOISE)
        guides = {
            "DPS": DPS(seen, Residual()),
            "MCG": MCG(seen, Residual()),
            "PiGDM": PiGDM(seen, data_std=width),
            "DDNM": DDNM(seen),
            "DiffPIR": DiffPIR(seen),
        }
        start = Addressed(run.seed).initial(torch.zeros_like(truth))
        rows, shown = {}, {"measured": physics.A_dagger(seen.y).reshape(truth.shape)}
        for name, guide in guides.items():
            result = steer(model, plan, start, guide, noise=Addressed(run.seed))
            shown[name] = result.sample
            rows[name] = {
                "psnr": float(psnr(result.sample, truth).mean()),
                "nfe": result.nfe,
                "vjps": result.vjps,
            }
        matrix = (
            physics.A(torch.eye(625, device=run.device).reshape(625, 1, 25, 25)).flatten(1).T.double().cpu()
        )
        means = [mixture.posterior(matrix, y, NOISE).mean for y in seen.y.flatten(1).double().cpu()]
        exact = torch.stack(means).float().reshape(-1, 1, 25, 25).to(run.device)
        shown["mixture's mean"], shown["truth"] = exact, truth
        rows["mixture's mean"] = {"psnr": float(psnr(exact, truth).mean()), "nfe": 0, "vjps": 0}
        best = max(guides, key=lambda name: rows[name]["psnr"])
        print(
            problem
            + ": "
            + ", ".join(
                f"{name} {row['psnr']:.1f} dB ({row['nfe']} NFE, {row['vjps']} VJPs)"
                for name, row in rows.items()
            )
        )
        ahead = rows["mixture's mean"]["psnr"] - rows[best]["psnr"]
        print(f"   the mixture's posterior mean has {ahead:+.1f} dB on the best guide, {best}")
        found[problem], pictures[problem] = rows, shown
    write(
        run.out,
        "restore_faces",
        draw(pictures, found, min(3, run.count)),
        {"faces": run.count, "seeds": run.seeds, "noise_std": NOISE, "results": found},
    )


def draw(pictures, found, count):
    plt = pyplot()
    names = list(next(iter(pictures.values())))
    figure, axes = plt.subplots(
        len(names),
        2 * count + 1,
        figsize=(2.2 * count + 2.2, 1.12 * len(names)),
        squeeze=False,
        gridspec_kw={"width_ratios": [1] * count + [0.75] + [1] * count},
    )
    for axis in axes[:, count]:  # room for the second column of numbers
        axis.axis("off")
    for p, (problem, shown) in enumerate(pictures.items()):
        for r, name in enumerate(names):
            for k in range(count):
                axis = axes[r, p * (count + 1) + k]
                axis.imshow(
                    shown[name][k, 0].cpu(),
                    cmap="gray",
                    vmin=-1,
                    vmax=1,
                    interpolation="bicubic" if name != "measured" else "nearest",
                )
                axis.set_xticks([])
                axis.set_yticks([])
                axis.spines[:].set_visible(False)
            if name in found[problem]:
                last = axes[r, p * (count + 1) + count - 1]
                text = f"{found[problem][name]['psnr']:.1f} dB"
                last.text(1.06, 0.5, text, transform=last.transAxes, fontsize=10, va="center")
        axes[0, p * (count + 1) + count // 2].set_title(problem, fontsize=12)
    figure.subplots_adjust(left=0.2, wspace=0.05, hspace=0.05)
    for r, name in enumerate(names):
        box = axes[r, 0].get_position()
        figure.text(0.0, (box.y0 + box.y1) / 2, name, fontsize=11, va="center")
    return figure


if __name__ == "__main__":
    main()
