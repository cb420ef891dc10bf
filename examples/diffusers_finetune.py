"""Fine-tune a diffusers pipeline to a reward of its pictures, by LoRA: `--model PATH` of a checkpoint, or `--tiny`."""

# %%
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import COLOURS, look, options, pyplot, write
from shared.tiny_pipelines import stable_diffusion

from pullback.guidance import (
    DDPO,
    AdjointMatching,
    Brightness,
    CLIPScore,
    DecodedReward,
    DRaFT,
    FlowGRPO,
    FunctionReward,
    JPEGSize,
    Objective,
    Reward,
    RewardTrainer,
    TextPrompts,
    TrainConfig,
    lora,
    read_log,
)
from pullback.solvers import DDIM, FlowSDE, GivenTimes, Plan
from pullback.solvers.pipelines import DiffusersPipeline, from_diffusers

PROMPTS = ["a cat", "a house by the sea", "a bowl of fruit", "an owl at night"]
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


# %% [markdown]
# Rewards are of pictures in [-1, 1]. None of them is downloaded: `--reward clip` reads the folder `--clip PATH`.


# %%
def redness(pictures: torch.Tensor, context: Any) -> torch.Tensor:
    return (pictures[:, 0] - pictures[:, 1:].mean(1)).flatten(1).mean(1) / 2


def reward_of(name: str, clip: str) -> Reward:
    known = {"redness": FunctionReward(redness), "brightness": Brightness(), "compressibility": -JPEGSize()}
    if clip:
        known["clip"] = CLIPScore.from_path(clip)
    return chosen("reward", known, name)


def chosen(what: str, known: dict[str, Any], name: str) -> Any:
    if name not in known:
        raise SystemExit(f"--{what}: got {name}, expected one of {', '.join(known)}")
    return known[name]


# %% [markdown]
# DRaFT differentiates the pipeline's own sampler. The others need the chance of a step: noise in every one of them.


# %%
def objective_of(name: str, last: int, kl: float) -> tuple[Objective, int]:
    """And the samples of one prompt that it compares."""
    known = {
        "draft": (DRaFT(last=last or None), 1),
        "ddpo": (DDPO(), 1),
        "flow-grpo": (FlowGRPO(), 4),
        "adjoint-matching": (AdjointMatching(kl=kl), 1),
    }
    return chosen("objective", known, name)


def plan_of(found: DiffusersPipeline, objective: Objective, flow: bool) -> Plan:
    if isinstance(objective, DRaFT):
        return found.plan
    noisy = FlowSDE(2**0.5 if isinstance(objective, AdjointMatching) else 0.7) if flow else DDIM(1.0)
    return noisy.plan(found.process, GivenTimes(torch.tensor(found.plan.times, dtype=torch.float64)))


def load(model: str, device: str) -> Any:
    """bfloat16 on a GPU. Nothing is downloaded."""
    from diffusers import AutoPipelineForText2Image  # pyright: ignore[reportPrivateImportUsage]

    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    pipe = AutoPipelineForText2Image.from_pretrained(model, dtype=dtype, local_files_only=True)
    return pipe.to(device)


# %%
def main() -> None:
    run = options(
        __doc__,
        model="",
        tiny=False,
        objective="draft",
        reward="redness",
        clip="",
        prompts="",
        guidance=3.0,
        sampler_steps=0,
        last=0,
        kl=0.01,
        rank=8,
        lr=0.0,
        updates=0,
        batch=0,
        limit=4,
        count=16,
        resume=False,
    )
    if run.tiny == bool(run.model):
        raise SystemExit("got " + ("both" if run.tiny else "neither") + ", expected --model PATH or --tiny")
    pipe = stable_diffusion().to(run.device) if run.tiny else load(run.model, run.device)
    flow = "FlowMatch" in type(pipe.scheduler).__name__
    if not flow:  # one network call a step, from pure noise
        from diffusers import DDIMScheduler  # pyright: ignore[reportPrivateImportUsage]

        changed = {"clip_sample": False, "timestep_spacing": "trailing"}
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **changed)
    texts = Path(run.prompts).read_text().splitlines() if run.prompts else PROMPTS
    objective, repeats = objective_of(run.objective, run.last, run.kl)
    found = from_diffusers(
        pipe, run.sampler_steps or (4 if run.tiny else 20), prompt=texts[0], guidance_scale=run.guidance
    )
    tuned = lora(found.model, run.rank, targets=ATTENTION, seed=run.seed)
    reward = DecodedReward(partial(found.decode, checkpoint=True), reward_of(run.reward, run.clip))
    iterations = run.updates or (8 if run.tiny else 100)
    folder = run.out / f"diffusers-{run.objective}-{run.reward}"
    config = TrainConfig(
        folder,
        iterations,
        run.lr or (1e-2 if run.tiny else 3e-4),
        samples=run.batch or (4 if run.tiny else 16),
        limit=run.limit,
        seed=run.seed,
        evaluate_every=max(1, iterations // 4),
        evaluation_samples=run.count,
        checkpoint_every=max(1, iterations // 4),
        tensorboard=False,
    )
    prompts = TextPrompts(found, texts, repeats=repeats)
    trainer = RewardTrainer(tuned, plan_of(found, objective, flow), objective, reward, prompts, config)
    before = trainer.evaluate()
    trainer.check()
    trainer.train(resume=run.resume)  # a folder with checkpoints is refused without --resume
    after = trainer.evaluate()
    if not trainer.world.first:
        return
    trainer.export(folder / "lora")
    with torch.no_grad():
        pairs = [torch.cat([found.decode(x) for x in each.x.split(run.limit)]) for each in (before, after)]
        gain = torch.cat(
            [reward(b) - reward(a) for a, b in zip(before.x.split(1), after.x.split(1), strict=True)]
        )
    error = 1.96 * float(gain.std()) / len(gain) ** 0.5
    name = f"{run.objective}, {run.reward}"
    print(
        f"{name}: {before.figures['reward']:.3f} -> {after.figures['reward']:.3f}, {float(gain.mean()):+.3f} +- "
        f'{error:.3f} (95 %) on {len(gain)} noises never trained on; pipe.load_lora_weights("{folder / "lora"}")'
    )
    rows = [row for row in read_log(folder / "log.jsonl") if row["kind"] == "evaluation"]
    facts = {
        "model": run.model or "tiny",
        "objective": run.objective,
        "reward": run.reward,
        "before": before.figures,
        "after": after.figures,
        "gain": float(gain.mean()),
        "interval": error,
        "evaluations": rows,
    }
    write(run.out, "diffusers_finetune", draw(pairs, rows, name), facts)


def draw(pairs, rows, name, count=8):
    plt = pyplot()
    count = min(count, len(pairs[0]))
    figure = plt.figure(figsize=(11, 5.6))
    grid = figure.add_gridspec(3, count, height_ratios=(1, 1, 1.8), hspace=0.08, wspace=0.06)
    for row, pictures in enumerate(pairs):
        for k in range(count):
            axis = figure.add_subplot(grid[row, k])
            shown = (pictures[k].float().cpu() / 2 + 0.5).clamp(0, 1).permute(1, 2, 0)
            axis.imshow(shown, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if k == 0:
                axis.set_ylabel(("before", "after")[row])
    axis = figure.add_subplot(grid[2, :])
    when, mean = [row["iteration"] for row in rows], torch.tensor([row["reward"] for row in rows])
    error = 1.96 * torch.tensor([row["reward_se"] for row in rows])
    axis.fill_between(when, mean - error, mean + error, color=COLOURS[0], alpha=0.2, lw=0)
    axis.plot(when, mean, **look(0))
    axis.set(xlabel="update", ylabel="reward, 95 %")
    figure.suptitle(f"{name}: the same noise before and after", y=0.95)
    return figure


if __name__ == "__main__":
    main()
