"""Optimise what enters a diffusers pipeline for a loss on its picture: half of a picture is given, and the pipeline is
to draw it.

The picture lies in 16 x 16 cells, of which a random half is seen: the loss is the squared error there. Judged by the
PSNR of the other half, beside the best, by the loss, of as many samples as cost the same, a VJP counted as two network
calls. The picture is `--image`, or what the pipeline makes of another noise: `--tiny` takes random weights, which draw
blots of no meaning but that. With `--clip` and `--judge` the prompt's CLIP score is raised instead, and the other CLIP
is the judge.

    python diffusers_optimise.py --model stabilityai/sd-turbo --prompt "a lake at dawn" --guidance 1
"""

# %%
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from common import GREY, look, options, pyplot, write
from shared.tiny_pipelines import stable_diffusion
from torch import Tensor

from pullback.adjoint import Checkpoint, sample
from pullback.guidance import CLIPScore, Decoded, Mask, Measurement, Over, Result, adam, optimise, reno
from pullback.solvers import Addressed
from pullback.solvers.pipelines import DiffusersPipeline, from_diffusers

CELLS = 16  # on a side of the picture


@dataclass(frozen=True)
class Task:
    """What is asked of a picture: `loss` and `judge` take latents to (B,)."""

    loss: Callable[[Tensor], Tensor]
    judge: Callable[[Tensor], Tensor]
    judged_by: str
    shown: dict[str, Tensor] = field(default_factory=dict)


def half_seen(found: DiffusersPipeline, picture: Tensor, seed: int) -> Task:
    """15 times (as large as rewards are) the mean squared error of the seen cells, and the PSNR of the others."""
    cells = torch.rand(1, CELLS, CELLS, generator=torch.Generator().manual_seed(seed)).to(picture) < 0.5
    high, wide = (side // CELLS for side in picture.shape[-2:])
    seen = cells.repeat_interleave(high, 1).repeat_interleave(wide, 2).to(picture)

    def error(mask: Tensor) -> Callable[[Tensor], Tensor]:
        # one picture at a time, under a checkpoint: a VAE has more activations than all that comes before it
        wrong = Measurement(Decoded(found.decode, Mask(mask), at_once=1), mask * picture, noise_std=0.0)
        return lambda x: wrong(x) / (picture.shape[1] * mask.sum())

    near, far = error(seen), error(1 - seen)
    return Task(
        lambda x: 15 * near(x), lambda x: 10 * (4 / far(x)).log10(), "PSNR of the other half, dB",
        {"the picture": picture, "what is seen": seen * picture},
    )  # fmt: skip


def by_clip(found: DiffusersPipeline, prompt: str, paths: tuple[str, str], device: str) -> Task:
    """A CLIP's score of the prompt, and another's."""
    reward, judge = (CLIPScore.from_path(path) for path in paths)
    for each in (reward, judge):
        each.model.to(device)
    return Task(
        lambda x: -reward(found.decode(x).float(), prompt),
        lambda x: judge(found.decode(x).float(), prompt),
        "score of another CLIP",
    )


def loaded(run: Any) -> Any:
    """The pipeline: bfloat16 on a GPU, float32 elsewhere."""
    if run.tiny or not run.model:
        return stable_diffusion().to(run.device)
    library: Any = importlib.import_module("diffusers")
    dtype = torch.bfloat16 if run.device.startswith("cuda") else torch.float32
    pipe = library.AutoPipelineForText2Image.from_pretrained(run.model, torch_dtype=dtype).to(run.device)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False)
    return pipe


def opened(path: str, like: Tensor) -> Tensor:
    """A file's picture in [-1, 1], of another's size."""
    import numpy
    from PIL import Image

    image = Image.open(path).convert("RGB").resize((like.shape[-1], like.shape[-2]))
    return torch.from_numpy(numpy.array(image)).to(like).movedim(-1, 0)[None] / 127.5 - 1


# %%
def main() -> None:
    run = options(
        __doc__, model="", tiny=False, prompt="a lake at dawn", sampler_steps=4, guidance=3.0,
        optimiser_steps=20, memory=0, image="", clip="", judge="",
    )  # fmt: skip
    pipe = loaded(run)
    found = from_diffusers(pipe, run.sampler_steps, prompt=run.prompt, guidance_scale=run.guidance)
    gradient = Checkpoint(
        memory_budget=run.memory * 2**20 or None
    )  # --memory: MiB for states and activations
    noise = Addressed(run.seed) if found.plan.slots else None
    frame: dict[str, Any] = {"noise": noise, "gradient": gradient, "steps": run.optimiser_steps}

    def drawn(seed: int) -> Tensor:
        """Unit noise, in float32 whatever the networks are."""
        return found.draw(torch.Generator().manual_seed(seed)).float() / found.scheduler.scale

    def latents(z: Tensor, source: Addressed | None = noise) -> Tensor:
        return sample(found.model, found.unit_plan, z, noise=source, gradient=None)

    with torch.no_grad():
        picture = found.decode(latents(drawn(run.seed + 1))).float()
    if run.clip:
        task = by_clip(found, run.prompt, (run.clip, run.judge), run.device)
    else:
        task = half_seen(found, opened(run.image, picture) if run.image else picture, run.seed)

    z = drawn(run.seed)
    text = {k: v for k, v in found.cond.items() if k.endswith("embeds") and not k.startswith("negative")}
    results: dict[str, Result] = {
        "noise, by ReNO": reno(found.model, found.unit_plan, task.loss, z, **frame),
        "prompt embeddings": optimise(
            found.model, found.unit_plan, task.loss, z, cond=text, over=Over(x=False, cond=True),
            optimiser=adam(0.2), **frame,
        ),
    }  # fmt: skip
    cost = max(result.nfe + 2 * result.vjps for result in results.values())
    count = -(-cost // found.plan.nfe)
    kept, losses = None, []
    with torch.no_grad():
        for k in range(count):
            x = latents(drawn(run.seed + 2 + k), None if noise is None else Addressed(run.seed + 2 + k))
            losses.append(float(task.loss(x)))
            kept = x if losses[-1] <= min(losses) else kept
        ends = {"start": latents(z), **{name: result.sample for name, result in results.items()}}
        ends |= {f"best of {count}": kept}
        judged = {name: float(task.judge(x)) for name, x in ends.items()}
        shown = task.shown | {name: found.decode(x).float() for name, x in ends.items()}
    curves = {name: result.losses[:, 0].tolist() for name, result in results.items()}
    best = min(losses)
    typical = float(results["noise, by ReNO"].x.norm() / z.norm())
    for name, value in judged.items():
        print(f"{name:20} {task.judged_by} {value:.2f}")
    print(f"loss {curves['noise, by ReNO'][0]:.3g} -> {float(results['noise, by ReNO'].loss):.3g}, best of {count} "
          f"{best:.3g}; the noise is {typical:.2f} times as long as it was")  # fmt: skip
    facts = {
        "model": run.model or "tiny", "sampler_steps": run.sampler_steps, "optimiser_steps": run.optimiser_steps,
        "best_of": count, "length": typical, task.judged_by: judged, "losses": curves | {"best of n": best},
    }  # fmt: skip
    write(run.out, "diffusers_optimise", draw(shown, judged, task.judged_by, curves, losses), facts)


def draw(shown, judged, judged_by, curves, losses):
    plt = pyplot()
    figure = plt.figure(figsize=(2.3 * len(shown), 5.4))
    grid = figure.add_gridspec(2, len(shown), height_ratios=[1, 1.1], hspace=0.3, wspace=0.06)
    for k, (name, picture) in enumerate(shown.items()):
        axis = figure.add_subplot(grid[0, k])
        axis.imshow(((picture[0].clamp(-1, 1) + 1) / 2).movedim(0, -1).cpu(), interpolation="nearest")
        axis.set(xticks=[], yticks=[], title=name + (f"\n{judged[name]:.1f}" if name in judged else "\n"))
        axis.spines[:].set_visible(False)
    axis = figure.add_subplot(grid[1, :])
    for k, (name, curve) in enumerate(curves.items()):
        axis.plot(range(len(curve)), curve, **look(k), label=name)
    axis.axhline(min(losses), color=GREY, ls=":", label=f"best of {len(losses)}, at equal cost")
    axis.set(
        xlabel="step of the optimiser",
        ylabel="loss",
        yscale="log" if min(map(min, curves.values())) > 0 else "linear",
    )
    axis.legend()
    figure.suptitle(f"below the names: {judged_by}", fontsize=9, y=0.99)
    return figure


if __name__ == "__main__":
    main()
