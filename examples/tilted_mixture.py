"""Fine-tune a sampler of a 2-D mixture and hold it against the exactly tilted mixture p(x) exp(r(x)/beta)."""

# %%
import math

import torch
from common import COLOURS, GREY, options, pyplot, write
from shared.attainable import best_gaussian_steps
from torch import Tensor, nn

from pullback.adjoint import sample
from pullback.guidance import AdjointMatching, Batch, DRaFT, Objective, Policy, QuadraticReward
from pullback.guidance.objectives.peers import World
from pullback.solvers import DATA, DDIM, VP, Addressed, Denoiser, Mixture, Model, Plan, UniformLambda

# %% [markdown]
# Six Gaussians on a ring, a reward that falls off around a point on it: the tilted law is a mixture again,
# known in closed form. DDIM(eta=1) is memoryless, so that this law, not one distorted by the starting noise,
# is what the optimum of E[r] - beta KL comes to as the steps grow many. What can be had with these steps is found
# by dynamic programming.

# %%
ANGLES = torch.arange(6) * math.tau / 6
LAW = Mixture.isotropic(torch.full((6,), 1 / 6), 1.5 * torch.stack([ANGLES.cos(), ANGLES.sin()], 1), 0.22)
REWARD, BETA = QuadraticReward(torch.tensor([1.5, 0.4]), 1.0), 1.0


class Corrected(nn.Module):
    """The mixture's exact data prediction, and a small network added to it that starts at 0."""

    def __init__(self, exact: Model, width: int = 64) -> None:
        super().__init__()
        self.exact = exact
        last = nn.Linear(width, 2)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.net = nn.Sequential(nn.Linear(4, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        when = torch.stack([t, self.exact.process.sigma(t).to(t)], 1)
        return self.exact(x, t) + self.net(torch.cat([x, when], 1))


def tune(objective: Objective, plan: Plan, updates: int, count: int, seed: int) -> Model:
    """The loop that RewardTrainer runs, by hand: roll out, score, descend."""
    torch.manual_seed(seed)
    base = LAW.denoiser(plan.process)
    policy = Policy(Denoiser(Corrected(base), plan.process, DATA), plan, reference=base)
    weights = [value for value in policy.denoiser.parameters() if value.requires_grad]
    adam = torch.optim.Adam(weights, 1e-2)
    slower = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.05, updates)
    shared = torch.Generator().manual_seed(seed)
    objective.check(policy)
    for update in range(updates):
        noise = Addressed(seed, samples=range(update * count, (update + 1) * count))
        batch = Batch(noise.initial(torch.zeros(count, 2)), noise, torch.zeros(count, dtype=torch.long))
        experience = objective.rollout(policy, batch, REWARD, World())
        for losses in objective.updates(policy, batch, experience, REWARD, World(), shared):
            adam.zero_grad()
            for loss in losses:
                loss.value.backward(inputs=weights)
            adam.step()
        slower.step()
    return policy.denoiser


def sliced(a: Tensor, b: Tensor, directions: int = 64) -> float:
    """Sliced W1 of two sets of as many points: the mean over directions of the 1-D distance of sorted projections."""
    angle = torch.arange(directions) * math.pi / directions
    way = torch.stack([angle.cos(), angle.sin()])
    return float(((a @ way).sort(0).values - (b @ way).sort(0).values).abs().mean())


def draws(law: Mixture, count: int, generator: torch.Generator) -> Tensor:
    picks = torch.multinomial(law.weights, count, replacement=True, generator=generator)
    return law.means[picks] + torch.randn(count, 2, generator=generator) * law.covs[picks, 0, :1].sqrt()


# %%
def main() -> None:
    run = options(__doc__, updates=120, batch=256, sampler_steps=16, count=8000)
    plan = DDIM(1.0).plan(VP(), UniformLambda(run.sampler_steps, start=1.0, end=0.01))
    tilted = REWARD.tilted(LAW, BETA)
    generator = torch.Generator().manual_seed(run.seed)
    exact, other = (draws(tilted, run.count, generator) for _ in range(2))
    noise = Addressed(run.seed + 1, stream=1)
    start = noise.initial(torch.zeros(run.count, 2))
    found, distance = {}, {(again := "two draws of the exact law"): sliced(exact, other)}
    models: dict[str, Model] = {"base": LAW.denoiser(plan.process)}
    for name, objective in (
        ("Adjoint Matching", AdjointMatching(BETA, sampled=None)),
        ("DRaFT + KL", DRaFT(kl=BETA)),
        ("DRaFT without KL", DRaFT()),
    ):
        models[name] = tune(objective, plan, run.updates, run.batch, run.seed)
    for name, model in models.items():
        found[name] = sample(model, plan, start, noise=noise, gradient=None)
    # no sampler of so few steps reaches the tilted law, whose own steps would not be Gaussian
    within_reach = f"the best of {run.sampler_steps} Gaussian steps"
    best, _ = best_gaussian_steps(plan, models["base"], REWARD, BETA, start, noise)
    earned = {"the exact law": float(REWARD(exact).mean())}
    for name, x in ({within_reach: best} | found).items():
        distance[name], earned[name] = sliced(x, exact), float(REWARD(x).mean())
    for name, value in distance.items():
        print(f"sliced W1 to the tilted mixture: {name:30s} {value:.3f}")
    for name, value in earned.items():
        print(f"E r:                             {name:30s} {value:.3f}")
    facts = {"sliced_w1": distance, "reward": earned}
    write(run.out, "tilted_mixture", draw(tilted, found, distance, within_reach, again), facts)


def draw(tilted, found, distance, within_reach, again):
    plt = pyplot()
    side = torch.linspace(-2.6, 2.6, 160)
    points = torch.stack(torch.meshgrid(side, side, indexing="xy"), 2)

    def density(law):
        parts = torch.distributions.MultivariateNormal(law.means, law.covs).log_prob(points[:, :, None])
        return (parts + law.log_weights).logsumexp(2).exp()

    def smoothed(x, width=0.11):
        """A kernel density on the grid: kernels of a Gaussian factorise over the axes."""
        kernel = torch.exp(-((side[:, None, None] - x.T) ** 2) / (2 * width**2))  # (160, 2, points)
        return kernel[:, 1] @ kernel[:, 0].T / len(x) / (math.tau * width**2)

    names = ("Adjoint Matching", "DRaFT + KL", "DRaFT without KL")
    figure, axes = plt.subplots(1, 5, figsize=(15, 3.3), constrained_layout=True)
    panels = {
        "base": density(LAW),
        r"exact: $p\, e^{r/\beta}$": density(tilted),
        **{name: smoothed(found[name]) for name in names},
    }
    for axis, (name, values) in zip(axes, panels.items(), strict=True):
        axis.contourf(
            side, side, values, levels=torch.linspace(0.02, 1.0, 15) * float(values.max()), cmap="Blues"
        )
        axis.plot(*REWARD.centre, marker="*", ms=11, color=COLOURS[1], mec="white", mew=0.8)
        axis.set(title=name, xticks=[], yticks=[], aspect="equal")
        if name in distance:
            axis.set_xlabel(f"sliced W1 {distance[name]:.3f}")
        axis.spines[:].set(visible=True, color=GREY)
    axes[1].set_xlabel(
        f"{within_reach} {distance[within_reach]:.3f}\nbetween two draws {distance[again]:.3f}"
    )
    return figure


if __name__ == "__main__":
    main()
