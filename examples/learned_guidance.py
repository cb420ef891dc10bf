"""Learn how strongly DPS guides at each step, by the gradient through the guided run, and judge it on new measurements.

    python examples/learned_guidance.py [--updates 40 --sampler-steps 20 --measurements 6 --copies 24 --seed 0]

Digits as a mixture of ten Gaussians, down-sampled or masked: the posterior is known. A strength for each step is
learned on measurements drawn from the prior: the loss is the sliced Wasserstein distance of the draws to exact
posterior draws, and its gradient goes through `steer`, and so through the network's gradient in every step, at the
memory of one step (`gradient=Checkpoint()`). Rows, judged on measurements that nothing was chosen on: DPS as published
with the best of nine constants, Bayes' weight with the best of nine, the learned schedule; the oracle knows the true
p(y | x_t). Another seed has other measurements, to learn from, to choose on and to judge on, and other noise;
`benchmarks/learned_guidance_seeds.py` runs three.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from common import options, write
from torch import Tensor

from pullback.adjoint import Checkpoint, PerStep
from pullback.guidance import (
    DPS,
    Bayes,
    ClassifierGuidance,
    Guide,
    Matrix,
    Measurement,
    Residual,
    StepSize,
    Through,
    steer,
)
from pullback.solvers import DDIM, VP, Addressed, Mixture, UniformLambda

PROCESS, STD = VP(), 0.1
CONSTANTS = [0.25, 0.12, 0.06, 0.03, 0.5, 1.0, 2.0, 4.0, 8.0]
TRAIN, VALID, HELD = 1000, 2, 3  # seeds of measurements
SIZES = {"updates": 40, "sampler_steps": 20, "measurements": 6, "copies": 24, "count": 16, "constants": 9}


@dataclass(frozen=True, eq=False)
class Problem:
    """A prior and an operator: measurements of it, and guided draws for all of them at once."""

    prior: Mixture
    matrix: Tensor
    steps: int
    seed: int = 0

    def of_run(self, seed: int) -> int:
        """The seed of that name in this run: no two runs share one."""
        return seed + 1_000_000 * self.seed

    def measured(self, count: int, seed: int) -> Tensor:
        """(J, m): y of `count` draws."""
        generator = torch.Generator().manual_seed(self.of_run(seed))
        clean = self.prior.sample(count, generator) @ self.matrix.T
        return clean + STD * torch.randn(clean.shape, generator=generator)

    def exact(self, y: Tensor, copies: int, seed: int) -> Tensor:
        """(J, n, d) draws of each posterior."""
        generator = torch.Generator().manual_seed(self.of_run(seed))
        return torch.stack(
            [self.prior.posterior(self.matrix, row, STD).sample(copies, generator) for row in y]
        )

    def drawn(self, guide: Callable[[Tensor], Guide], y: Tensor, copies: int, seed: int, **given) -> Tensor:
        """(J, n, d) draws under `guide` of measurements (J n, m)."""
        noise, plan = (
            Addressed(self.of_run(seed)),
            DDIM(1.0).plan(PROCESS, UniformLambda(self.steps, start=0.999, end=0.002)),
        )
        x = noise.initial(torch.zeros(len(y) * copies, self.matrix.shape[1]))
        model, guided = self.prior.denoiser(PROCESS), guide(y.repeat_interleave(copies, 0))
        return steer(model, plan, x, guided, noise=noise, **given).sample.unflatten(0, (len(y), copies))

    def by(self, policy: StepSize) -> Callable[[Tensor], Guide]:
        """DPS of the squared residual for the published policy, of nats for the others."""

        def guide(y: Tensor) -> Guide:
            seen = Measurement(Matrix(self.matrix), y, STD)
            return DPS(seen if isinstance(policy, Residual) else seen.nats, policy)

        return guide

    def oracle(self, y: Tensor) -> Guide:
        """Guided by p(y | x_t), from the two marginals by Bayes' rule; one measurement at a time."""
        posterior = self.prior.posterior(self.matrix, y[0], STD)

        def log_prob(x: Tensor, t: Tensor) -> Tensor:
            alpha, sigma = PROCESS.alpha(t[0]), PROCESS.sigma(t[0])
            return posterior.log_prob(x, alpha, sigma) - self.prior.log_prob(x, alpha, sigma)

        return ClassifierGuidance(log_prob)


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Sliced 2-Wasserstein distance of draws (J, n, d) over 128 directions, the mean over measurements."""
    directions = torch.randn(a.shape[2], 128, generator=torch.Generator().manual_seed(7))
    lines = [(x @ (directions / directions.norm(dim=0))).sort(1).values for x in (a, b)]
    return (lines[0] - lines[1]).square().mean((1, 2)).sqrt().mean()


def judged(
    p: Problem, guide: Callable[[Tensor], Guide], seed: int, count: int = 8, copies: int = 100
) -> float:
    """Distance on `count` measurements of this seed; infinite where the library calls the run diverged."""
    y = p.measured(count, seed)
    try:
        return float(distance(p.drawn(guide, y, copies, 70 + seed), p.exact(y, copies, 80 + seed)).detach())
    except FloatingPointError:
        return float("inf")


def learned(p: Problem, start: float, run) -> Tensor:
    """The strengths (N,) that were best on validation measurements, from a constant; a run that diverges goes back."""
    theta = torch.full((p.steps,), start).log().requires_grad_()
    adam = torch.optim.Adam([theta], lr=0.1)
    best, least = theta.detach().exp(), judged(p, p.by(Bayes(start)), VALID)
    for update in range(1, run.updates + 1):
        y = p.measured(run.measurements, TRAIN + update)
        guide = p.by(Bayes(PerStep(theta.exp())))
        try:
            draws = p.drawn(guide, y, run.copies, update, through=Through.FULL, gradient=Checkpoint())
        except FloatingPointError:
            theta.data.copy_(best.log())
            continue
        adam.zero_grad()
        distance(draws, p.exact(y, run.copies, 10_000 + update)).backward()
        torch.nn.utils.clip_grad_norm_([theta], 1.0)
        adam.step()
        if update % 10 == 0 or update == run.updates:
            now = theta.detach().exp()
            if (found := judged(p, p.by(Bayes(PerStep(now))), VALID)) < least:
                best, least = now, found
    return best


def problems(steps: int, seed: int) -> dict[str, Problem]:
    from sklearn.datasets import load_digits
    from sklearn.mixture import GaussianMixture

    generator = torch.Generator().manual_seed(0)
    fit = GaussianMixture(10, reg_covar=1e-3, random_state=0).fit(
        load_digits(return_X_y=True)[0][:1437] / 8 - 1
    )
    weights, means, covs = (torch.as_tensor(v) for v in (fit.weights_, fit.means_, fit.covariances_))
    digits, pool = Mixture(weights, means, (covs + covs.mT) / 2), torch.kron(torch.eye(2), torch.ones(4)) / 4
    seen = torch.eye(64)[torch.randperm(64, generator=generator)[:16]]
    return {
        "digits, down-sampled by 4": Problem(digits, torch.kron(pool, pool), steps, seed),
        "digits, 16 of 64 pixels": Problem(digits, seen, steps, seed),
    }


def compared(p: Problem, run) -> dict:
    """{"distance": each row's, "constants": the best, "strengths": (N,) learned}."""
    kinds = {"published": Residual, "Bayes' weight": Bayes}
    tuned = {
        kind: min(CONSTANTS[: run.constants], key=lambda c, k=k: judged(p, p.by(k(c)), VALID))
        for kind, k in kinds.items()
    }
    strengths = learned(p, tuned["Bayes' weight"], run)
    rows = {
        f"{kind}, best constant": judged(p, p.by(k(tuned[kind])), HELD, run.count)
        for kind, k in kinds.items()
    }
    rows["learned schedule"] = judged(p, p.by(Bayes(PerStep(strengths))), HELD, run.count)
    y = p.measured(run.count, HELD)
    oracle = torch.cat([p.drawn(p.oracle, row[None], 100, 70 + HELD) for row in y])
    rows["oracle"] = float(distance(oracle, p.exact(y, 100, 80 + HELD)))
    return {"distance": rows, "constants": tuned, "strengths": strengths.tolist()}


def main() -> None:
    run = options(__doc__, **SIZES)
    torch.set_default_dtype(torch.float64)
    facts = {}
    for name, p in problems(run.sampler_steps, run.seed).items():
        facts[name] = compared(p, run)
        rows = facts[name]["distance"]
        print(
            name,
            *(f"   {row:30} {d:.3f}  {d / rows['oracle']:.2f} x the oracle" for row, d in rows.items()),
            sep="\n",
        )
    write(run.out, "learned_guidance", draw(facts), {"settings": {**vars(run), "out": ""}, "results": facts})


def draw(facts):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), width_ratios=[1, 1.3])
    for name, found in facts.items():
        left.semilogy(range(1, len(found["strengths"]) + 1), found["strengths"], label=name)
    left.set(xlabel="step, from noise to data", ylabel="learned strength, of Bayes' weight")
    left.xaxis.get_major_locator().set_params(integer=True)
    left.yaxis.set_minor_formatter(NullFormatter())
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    left.legend(frameon=False, fontsize=8)
    names, rows = list(facts), list(next(iter(facts.values()))["distance"])[:-1]
    for k, row in enumerate(rows):
        heights = [facts[name]["distance"][row] / facts[name]["distance"]["oracle"] for name in names]
        bars = right.bar(
            [j + 0.27 * (k - 1) for j in range(len(names))], heights, 0.25, label=row, color=f"C{k}"
        )
        right.bar_label(bars, fmt="%.2f", fontsize=8)
    right.axhline(1, color="black", lw=0.8, label="oracle, which knows p(y | x_t)")
    right.set(xticks=range(len(names)), ylabel="distance to the posterior / the oracle's")
    right.set_xticklabels(names, fontsize=8)
    right.legend(frameon=False, fontsize=8)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main()
