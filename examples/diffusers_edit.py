"""Edit a picture with a diffusers pipeline, told in words what it shows and what it is to show.

RF-Inversion where the pipeline is a flow (SD3, Flux); FlowEdit, SDEdit, plain and exact inversion with any. Two
figures for each: how far the picture has moved, and how far it leans to the target: by how much less of the error of
denoising it the same network makes when told the target (Li et al. 2023, arXiv 2303.16203; it judges its own work).
Below, what is left of the picture in a round trip under the words that it had.

    python diffusers_edit.py --model black-forest-labs/FLUX.1-dev --image cat.png --source "a cat" --target "a dog"

Without --image the picture is what the pipeline draws of --source. --tiny takes random weights, whose pictures are of
nothing: then only the round trips mean something.
"""

# %%
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from common import options, pyplot, write
from shared.tiny_pipelines import flux
from torch import Tensor

from pullback.adjoint import sample
from pullback.guidance import edit
from pullback.solvers import (
    DATA,
    DDIM,
    OBELM,
    Addressed,
    DiffusersPipeline,
    OnProcess,
    RectifiedFlow,
    Rising,
    convert,
    from_diffusers,
)

Cond = dict[str, Tensor]
Method = Callable[[Cond, Cond], edit.Edit]


def loaded(run: Any) -> Any:
    """The pipeline: bfloat16 on a GPU, float32 elsewhere."""
    if run.tiny:
        return flux().to(run.device)
    if not run.model:
        raise SystemExit(
            "diffusers_edit.py: pass --model PATH, of a pipeline that diffusers can load, or --tiny"
        )
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    dtype = torch.bfloat16 if run.device.startswith("cuda") else torch.float32
    return DiffusionPipeline.from_pretrained(run.model, dtype=dtype).to(run.device)


def opened(path: str, like: Tensor) -> Tensor:
    """A file's picture in [-1, 1], of another's size."""
    import numpy
    from PIL import Image

    image = Image.open(path).convert("RGB").resize((like.shape[-1], like.shape[-2]))
    return torch.from_numpy(numpy.array(image)).to(like).movedim(-1, 0)[None] / 127.5 - 1


@dataclass(frozen=True)
class Told:
    """What the picture shows, what it is to show, and what tells nothing; `strongly` is for the way that edits."""

    source: Cond
    target: Cond
    nothing: Cond
    strongly: Cond


def words(found: DiffusersPipeline, run: Any) -> Told:
    def told(prompt: str, scale: float) -> Cond:
        return {**found.encode_prompt(prompt=prompt), "guidance_scale": torch.tensor(scale)}

    return Told(
        told(run.source, run.weak),
        told(run.target, run.weak),
        told("", run.weak),
        told(run.target, run.strong),
    )


# %%
def methods(found: DiffusersPipeline, z: Tensor, told: Told, run: Any) -> dict[str, Method]:
    """By name: from what the picture shows and what it is to show to the edit."""
    model, nodes, noise = found.model, found.grid.values, Addressed(run.seed)
    begin = round((1 - run.strength) * (len(nodes) - 1))
    part, end = nodes[begin:], len(nodes) - 1 - begin
    up, down = OBELM().plan(found.process, Rising(part)), DDIM().plan(found.process, part)
    alpha, sigma = found.process.alpha(nodes), found.process.sigma(nodes)
    flow = OnProcess(
        model, RectifiedFlow()
    )  # a flow as it is, and a diffusion as the flow through the same x0 and eps
    every: dict[str, Method] = {
        "FlowEdit": lambda a, b: edit.flow_edit(
            flow, z, source=a, target=b, n_max=end, grid=sigma / (alpha + sigma), noise=noise
        ),
        "exact inversion": lambda a, b: edit.exact_inversion(model, up, z, source=a, target=b),
        "plain inversion": lambda a, b: edit.ddim_inversion(model, z, source=a, target=b, grid=part),
        "SDEdit": lambda a, b: edit.sdedit(model, down, z, target=b, noise=noise),
    }
    if not isinstance(found.process, RectifiedFlow):
        return every

    def rectified(eta: edit.Schedule) -> Method:
        return lambda a, b: edit.rf_inversion(
            model, z, source=told.nothing, target=b, eta=eta, grid=found.grid, noise=noise
        )

    return {
        "RF-Inversion": rectified(edit.Schedule(0.9, stop=0.25)),
        "RF-Inversion, eta = 1": rectified(edit.Schedule(1.0)),
        **every,
    }


def leaning(found: DiffusersPipeline, z: Tensor, told: Told, noise: Addressed) -> float:
    """Mean over noise levels of 1 - |error told the target|^2 / |error told the source|^2, of denoising z."""
    nodes, shares = found.grid.values[1:-1], []
    for k, t in enumerate(nodes[:: max(1, len(nodes) // 6)]):
        at, (alpha, sigma) = (
            t.expand(len(z)),
            (float(f(t)) for f in (found.process.alpha, found.process.sigma)),
        )
        noisy = alpha * z + sigma * noise(k, z)
        errors = []
        for cond in (told.source, told.target):
            out = found.model(noisy, at.to(noisy.device), cond)
            data = convert(out, noisy, found.model.prediction, DATA, found.process, t)
            errors.append(float((data - z).square().mean()))
        shares.append(1 - errors[1] / errors[0])
    return sum(shares) / len(shares)


def rms(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean().sqrt())


def main() -> None:
    run = options(
        __doc__, model="", tiny=False, image="", source="a cat on a chair", target="a dog on a chair",
        sampler_steps=28, size=0, strength=0.85, weak=1.5, strong=5.5,
    )  # fmt: skip
    size = run.size or (32 if run.tiny else 0)
    sizes = {"height": size, "width": size} if size else {}
    with torch.no_grad():
        found = from_diffusers(
            loaded(run), run.sampler_steps, prompt=run.source, guidance_scale=run.strong, **sizes
        )
        start = found.draw(torch.Generator().manual_seed(run.seed)).float()
        drawing = Addressed(run.seed) if found.plan.stochastic else None
        picture = found.decode(sample(found.model, found.plan, start, noise=drawing)).clamp(-1, 1)
        if run.image:
            picture = opened(run.image, picture)
        z, told = found.encode(picture).float(), words(found, run)
        shown = found.decode(z).float()  # what the VAE keeps of it: none of the edits can be nearer
        noise = Addressed(run.seed + 1)
        facts: dict[str, Any] = {
            "no edit": {"moved": 0.0, "leans": leaning(found, z, told, noise)},
            "VAE": {"moved": rms(shown, picture.float())},
        }
        edits, trips = {}, {}
        for name, method in methods(found, z, told, run).items():
            began = time.perf_counter()
            edited = method(told.source, told.strongly)
            took = time.perf_counter() - began
            back = method(told.source, told.source).sample
            edits[name], trips[name] = (found.decode(each).float() for each in (edited.sample, back))
            facts[name] = {
                "moved": rms(edits[name], shown),
                "leans": leaning(found, edited.sample, told, noise),
                "round trip, pictures": rms(trips[name], shown),
                "round trip, latents": rms(back, z) / rms(z, torch.zeros_like(z)),
                "calls": edited.nfe,
                "seconds": took,
            }
    for name, row in facts.items():
        print(f"{name:22} " + "  ".join(f"{key} {value:.3g}" for key, value in row.items()))
    if run.device.startswith("cuda"):
        facts["peak GiB"] = torch.cuda.max_memory_allocated() / 2**30
    write(run.out, "diffusers_edit", draw(run, picture.float(), shown, edits, trips, facts), facts)


def draw(
    run: Any, picture: Tensor, shown: Tensor, edits: dict[str, Tensor], trips: dict[str, Tensor], facts: Any
) -> Any:
    plt = pyplot()
    figure, axes = plt.subplots(2, len(edits) + 1, figsize=(2.6 * (len(edits) + 1), 6.2), squeeze=False)
    columns = {f"“{run.source}”": picture} | edits
    for axis, (name, image) in zip(axes[0], columns.items(), strict=True):
        row = facts.get(name, facts["no edit"])
        axis.set_title(f"{name}\nmoved {row['moved']:.2f}, leans {row['leans']:+.2f}", fontsize=8.5)
        axis.imshow((image[0].clamp(-1, 1).movedim(0, -1).cpu() + 1) / 2)
    axes[1][0].imshow((shown[0].clamp(-1, 1).movedim(0, -1).cpu() + 1) / 2)
    axes[1][0].set_title("as its VAE shows it", fontsize=8.5)
    for axis, (name, image) in zip(axes[1][1:], trips.items(), strict=True):
        axis.imshow((image - shown)[0].abs().amax(0).cpu(), cmap="magma", vmin=0, vmax=1)
        axis.set_title(f"round trip: {facts[name]['round trip, pictures']:.1e} off", fontsize=8.5)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    figure.suptitle(f"to “{run.target}”", fontsize=10)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    main()
