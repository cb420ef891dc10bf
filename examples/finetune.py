"""Fine-tune the digits sampler to a reward by any objective; also with `accelerate launch examples/finetune.py ...`."""

# %%
import copy
from dataclasses import dataclass

from bundled import denoiser, load
from common import options, write

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
from pullback.solvers import DDIM, ConstantFlowSDE, FlowSDE, Method, UniformT

# %% [markdown]
# The reward's unit decides what beta means: with r = log p(digit | x) and beta = 1 the optimum p(x)
# exp(r/beta) is p(x | digit). The other two are normalised by mean and deviation over samples of the base
# model.


# %%
def rewards(digit: int) -> dict[str, Reward]:
    return {
        "classifier": ClassifierReward(load("classifier0"), digit),
        "jpeg": -JPEGSize().normalise(0.391, 0.003),
        "brightness": Brightness().normalise(0.307, 0.025),
    }


@dataclass(frozen=True)
class Setting:
    """An objective, the sampler it belongs to, and numbers that suit the digits. Band of ratios: 0.03 x 64
    pixels, 2 nats.
    """

    objective: Objective
    lr: float = 5e-3
    samples: int = 32
    repeats: int = 1
    network: str = "digits"
    method: Method = DDIM(1.0)


def settings(kl: float) -> dict[str, Setting]:
    plain, group, band = OverBatch(Scale.NONE), OverGroup(Scale.NONE), 0.03
    free = {"advantage_clip": None, "kl": kl, "clip": band}
    return {
        "draft": Setting(DRaFT(kl=kl)),
        "draft-k": Setting(DRaFT(last=3, kl=kl)),
        "draft-lv": Setting(DRaFTLV(kl=kl)),
        "alignprop": Setting(AlignProp(kl=kl)),
        "refl": Setting(ReFL(kl=kl, scale=1.0)),
        "ddpo-sf": Setting(DDPO(plain, mode=Estimator.SF, **free)),
        "ddpo-is": Setting(DDPO(plain, minibatches=2, **free)),
        "dpok": Setting(DPOK(plain, passes=2, **free)),
        "flow-grpo": Setting(FlowGRPO(group, **free), repeats=16, network="digits_flow", method=FlowSDE(0.7)),
        "dance-grpo": Setting(
            DanceGRPO(group, **free), repeats=16, network="digits_flow", method=ConstantFlowSDE(0.3)
        ),
        "adjoint-matching": Setting(AdjointMatching(kl=kl)),
    }


# %%
def main() -> None:
    run = options(
        __doc__,
        objective="draft",
        reward="classifier",
        digit=3,
        kl=0.3,
        iterations=30,
        rank=8,
        lr=0.0,
        samples=0,
        steps=8,
        evaluation=64,
        resume=0,
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
    plan = how.method.plan(base.process, UniformT(run.steps, start=1.0, end=0.02))
    folder = run.out / f"finetune-{run.objective}-{run.reward}"
    config = TrainConfig(
        folder,
        run.iterations,
        run.lr or how.lr,
        samples=run.samples or how.samples,
        seed=run.seed,
        evaluate_every=max(1, run.iterations // 10),
        evaluation_samples=run.evaluation,
        checkpoint_every=run.iterations,
        tensorboard=False,
    )
    trainer = RewardTrainer(
        model,
        plan,
        how.objective,
        reward,
        Prompts([Prompt()], (1, 8, 8), repeats=how.repeats),
        config,
        heldout={"judge": ClassifierReward(load("classifier1"), run.digit, log=False)},
    )
    before = trainer.evaluate()
    trainer.check()
    trainer.train(resume=bool(run.resume))  # a folder with checkpoints is refused without --resume 1
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
        facts = {
            "objective": run.objective,
            "reward": run.reward,
            "kl_weight": run.kl,
            "before": before.figures,
            "after": after.figures,
        }
        write(run.out, "finetune", draw(before.x, after.x, rows, name), facts)


def draw(before, after, rows, name, count=12):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    count = min(count, len(before))
    figure = plt.figure(figsize=(11, 5.6))
    grid = figure.add_gridspec(4, count, height_ratios=(1, 1, 0.4, 2.6), hspace=0.1, wspace=0.06)
    for row, images in enumerate((before, after)):
        for k in range(count):
            axis = figure.add_subplot(grid[row, k])
            axis.imshow(images[k, 0].cpu(), cmap="gray_r", vmin=-1, vmax=1)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_color("#bbbbbb")
            if k == 0:
                axis.set_ylabel(("base", "tuned")[row])
    axis = figure.add_subplot(grid[3, :])
    kl, value, error, when = (
        [row[key] for row in rows] for key in ("kl", "reward", "reward_se", "iteration")
    )
    axis.errorbar(kl, value, error, color="#9db4cc", lw=1.2, capsize=2, zorder=1)
    dots = axis.scatter(kl, value, c=when, cmap="viridis_r", s=40, edgecolor="white", lw=0.8, zorder=2)
    figure.colorbar(dots, label="iteration", pad=0.015)
    axis.set(xlabel="path KL to the base [nats]", ylabel="reward on held-out noise", title=name)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main()
