"""Fine-tune the digits sampler to a reward by any objective; also with `accelerate launch examples/finetune.py ...`."""

# %%
import copy
from dataclasses import dataclass

import torch
from common import GREY, look, options, pyplot, write

from pullback.adjoint import sample
from pullback.guidance import (
    DDPO,
    DPOK,
    AdjointMatching,
    AlignProp,
    Brightness,
    ClassifierReward,
    DanceGRPO,
    DRaFT,
    DRaFTLV,
    Estimator,
    FlowGRPO,
    JPEGSize,
    Objective,
    OverBatch,
    OverGroup,
    Prompt,
    Prompts,
    ReFL,
    Reward,
    RewardTrainer,
    Scale,
    TrainConfig,
    lora,
    read_log,
)
from pullback.solvers import DDIM, Addressed, ConstantFlowSDE, FlowSDE, Method, UniformT
from pullback.zoo import denoiser, load

# %% [markdown]
# The reward's unit decides what beta means: with r = log p(digit | x) and beta = 1 the optimum p(x)
# exp(r/beta) is p(x | digit). The other two are normalised by mean and deviation over samples of the base
# model.


# %%
def rewards(digit: int) -> dict[str, Reward]:
    return {
        "classifier": ClassifierReward(load("mnist_classifier0"), digit),
        "jpeg": -JPEGSize().normalise(0.892, 0.031),
        "brightness": Brightness().normalise(0.118, 0.029),
    }


@dataclass(frozen=True)
class Setting:
    """A network, an objective, the sampler it belongs to, and numbers that suit the digits."""

    network: str
    objective: Objective
    lr: float = 5e-3
    samples: int = 32
    repeats: int = 1
    method: Method = DDIM(1.0)


def settings(kl: float, digits: str = "mnist", band: float = 2 / 784) -> dict[str, Setting]:
    """By the objective's name. digits: the bundled networks, `mnist` or the 8x8 `digits`; band: of ratios, in nats a
    pixel: 2 nats in all.
    """
    plain, group, flow = OverBatch(Scale.NONE), OverGroup(Scale.NONE), f"{digits}_flow"
    free = {"advantage_clip": None, "kl": kl, "clip": band}
    return {
        "draft": Setting(digits, DRaFT(kl=kl)),
        "draft-k": Setting(digits, DRaFT(last=3, kl=kl)),
        "draft-lv": Setting(digits, DRaFTLV(kl=kl)),
        "alignprop": Setting(digits, AlignProp(kl=kl)),
        "refl": Setting(digits, ReFL(kl=kl, scale=1.0)),
        "ddpo-sf": Setting(digits, DDPO(plain, mode=Estimator.SF, **free)),
        "ddpo-is": Setting(digits, DDPO(plain, minibatches=2, **free)),
        "dpok": Setting(digits, DPOK(plain, passes=2, **free)),
        "flow-grpo": Setting(flow, FlowGRPO(group, **free), repeats=16, method=FlowSDE(0.7)),
        "dance-grpo": Setting(flow, DanceGRPO(group, **free), repeats=16, method=ConstantFlowSDE(0.3)),
        "adjoint-matching": Setting(digits, AdjointMatching(kl=kl)),
    }


# %%
def main() -> None:
    run = options(
        __doc__,
        objective="draft",
        reward="classifier",
        digit=3,
        kl=0.1,
        updates=30,
        rank=8,
        lr=0.0,
        batch=0,
        sampler_steps=8,
        count=64,
        resume=False,
    )
    known, scored = settings(run.kl), rewards(run.digit)
    for name, table in (("objective", known), ("reward", scored)):
        if getattr(run, name) not in table:
            raise SystemExit(f"--{name}: got {getattr(run, name)}, expected one of {', '.join(table)}")
    how, reward = known[run.objective], scored[run.reward]
    base = denoiser(how.network)
    model = lora(copy.deepcopy(base), run.rank, seed=run.seed) if run.rank else copy.deepcopy(base)
    if not run.rank:
        model.network.requires_grad_(True)  # type: ignore[attr-defined]
    plan = how.method.plan(base.process, UniformT(run.sampler_steps, start=1.0, end=0.01))
    folder = run.out / f"finetune-{run.objective}-{run.reward}"
    config = TrainConfig(
        folder,
        run.updates,
        run.lr or how.lr,
        samples=run.batch or how.samples,
        seed=run.seed,
        evaluate_every=max(1, run.updates // 6),
        evaluation_samples=run.count,
        checkpoint_every=run.updates,
        tensorboard=False,
    )
    judge = ClassifierReward(load("mnist_classifier1"), run.digit, log=False)
    trainer = RewardTrainer(
        model,
        plan,
        how.objective,
        reward,
        Prompts([Prompt()], (1, 28, 28), repeats=how.repeats),
        config,
        heldout={"judge": judge},
    )
    before = trainer.evaluate()
    trainer.check()
    trainer.train(resume=run.resume)  # a folder with checkpoints is refused without --resume
    after = trainer.evaluate()
    if trainer.world.first:
        trainer.export(folder / "tuned")
        rows = [row for row in read_log(folder / "log.jsonl") if row["kind"] == "evaluation"]
        name, error = f"{run.objective}, {run.reward}", after.figures["reward_se"]
        print(
            f"{name}: reward {before.figures['reward']:.3f} -> {after.figures['reward']:.3f} +- {error:.3f} "
            f"at {after.figures['kl']:.2f} nats; the other classifier reads {run.digit} with probability "
            f"{before.figures['judge']:.2f} -> {after.figures['judge']:.2f}"
        )
        # the baseline: nothing is trained, the base model is asked for the digit by its label
        noise = Addressed(run.seed, stream=1)
        start = noise.initial(torch.zeros(run.count, 1, 28, 28))
        asked = sample(
            base, plan, start, cond=torch.full((run.count,), run.digit), noise=noise, gradient=None
        )
        by_label = float(judge(asked).mean())
        facts = {
            "objective": run.objective,
            "reward": run.reward,
            "kl_weight": run.kl,
            "asked_by_label": by_label,
            "before": before.figures,
            "after": after.figures,
        }
        write(run.out, "finetune", draw(before.x, after.x, rows, name, by_label), facts)


def draw(before, after, rows, name, by_label, count=12):
    plt = pyplot()
    count = min(count, len(before))
    figure = plt.figure(figsize=(11, 5.6))
    grid = figure.add_gridspec(4, count, height_ratios=(1, 1, 0.4, 2.6), hspace=0.1, wspace=0.06)
    for row, images in enumerate((before, after)):
        for k in range(count):
            axis = figure.add_subplot(grid[row, k])
            axis.imshow(images[k, 0].cpu(), cmap="gray_r", vmin=-1, vmax=1)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if k == 0:
                axis.set_ylabel(("base", "tuned")[row], fontsize=12)
    figure.suptitle(f"{name}: the same noise before and after", y=0.95)
    when = [row["iteration"] for row in rows]
    panels = (
        ("reward on held-out noise", "reward"),
        ("read by the other classifier", "judge"),
        ("path KL to the base [nats]", "kl"),
    )
    third = grid[3, :].subgridspec(1, 3, wspace=0.3)
    for k, (label, key) in enumerate(panels):
        axis = figure.add_subplot(third[k])
        error = [row["reward_se"] for row in rows] if key == "reward" else None
        axis.errorbar(when, [row[key] for row in rows], error, **look(0), capsize=2)
        axis.set(xlabel="update", title=label)
        if key == "judge":
            axis.axhline(by_label, color=GREY, ls=":")
            axis.text(when[-1], by_label - 0.06, "base asked by its label", ha="right", va="top", fontsize=9)
            axis.set_ylim(0, 1.03)
    return figure


if __name__ == "__main__":
    main()
