"""How near each morphing strategy comes to the best morph there is, at equal network evaluations and VJPs.

    python benchmarks/identities.py      writes benchmarks/results/identities.json and .png

A mixture in the plane with one component an identity, its exact denoiser, two recognisers in the loss and one
that judges, the denoiser's own error for realism. The best is found by brute force over starts of the plane, on a
grid that closes in. Learning rates and widths are chosen for each strategy on pairs of another seed. Every strategy
may spend BUDGET evaluations and VJPs a pair.
"""

import json
import pathlib
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from pullback.adjoint import AdjointDEIS, Checkpoint, Continuous, Reversible, sample
from pullback.guidance import (
    COSINE,
    BestMorph,
    DenoiserError,
    Embedding,
    EndToEnd,
    Evolution,
    FlowEncoder,
    GreedyMorph,
    GreedySearch,
    InvertedBlend,
    LatentBlend,
    LookaheadMorph,
    Morph,
    MorphLoss,
    MorphStrategy,
    Over,
    Pair,
    PairLoss,
    ParticleSearch,
    PixelBlend,
    ScoreRatio,
    StochasticEncoder,
    adam,
    morph,
)
from pullback.guidance.morphs.scene import Scene
from pullback.solvers import (
    DDIM,
    VP,
    Addressed,
    DPMSolverPP,
    Mixture,
    Model,
    Plan,
    ReversibleHeun,
    UniformLambda,
)

RESULTS = pathlib.Path(__file__).parent / "results"
BUDGET, PAIRS, STEPS = 1200, 16, 20
ENDS = {"start": 0.99, "end": 0.02}
TERMS = MorphLoss(realism=(DenoiserError(0.3, (0.2,)),))
ODE = DPMSolverPP(2).plan(VP(), UniformLambda(STEPS, **ENDS))
TWO_STATES = ReversibleHeun().plan(VP(), UniformLambda(STEPS - 1, **ENDS))
SDE = DDIM(1.0).plan(VP(), UniformLambda(STEPS, **ENDS))
RATES, START = (0.1, 0.3), InvertedBlend()
Make = Callable[[int, float], MorphStrategy]  # (how long, how fast)


def ended(gradient, **more) -> Make:
    return lambda steps, rate: EndToEnd(
        start=START, gradient=gradient, steps=steps, optimiser=adam(rate), **more
    )


def fixed(strategy: MorphStrategy) -> tuple[Plan, None, tuple[float, ...]]:
    return ODE, lambda steps, rate: strategy, (0.0,)  # type: ignore[return-value]


# name: plan, how a strategy is made, rates to choose from
STRATEGIES: dict[str, tuple[Plan, Make, tuple[float, ...]]] = {
    "slerp": fixed(LatentBlend()),
    "slerp, best of 9": fixed(BestMorph.of_weights(LatentBlend())),
    "pixel mean": fixed(PixelBlend()),
    "pixel mean, best of 9": fixed(BestMorph.of_weights(PixelBlend())),
    "greedy search": fixed(GreedySearch(start=START)),
    "greedy": (ODE, lambda rounds, rate: GreedyMorph(START, rounds, rate), RATES),
    "lookahead": (ODE, lambda ahead, rate: LookaheadMorph(START, min(ahead, STEPS), ScoreRatio(rate)), RATES),
    "evolution": (ODE, lambda count, rate: Evolution(START, count, 8, rate), RATES),
    "particles (SDE)": (SDE, lambda children, rate: ParticleSearch(START, max(children, 1)), (0.0,)),
    "end to end, differences": (ODE, ended(Checkpoint(), differences=Addressed(0), directions=4), RATES),
    "end to end, Checkpoint": (ODE, ended(Checkpoint()), RATES),
    "end to end, Reversible": (TWO_STATES, ended(Reversible()), RATES),
    "end to end, Continuous": (ODE, ended(Continuous()), RATES),
    "end to end, AdjointDEIS (ODE)": (ODE, ended(AdjointDEIS()), RATES),
    "end to end, AdjointDEIS (SDE)": (SDE, ended(AdjointDEIS(), over=Over(noise=True)), RATES),
    "end to end, Checkpoint (SDE)": (SDE, ended(Checkpoint(), over=Over(noise=True)), RATES),
}


def crowd(seed: int, std: float) -> tuple[Mixture, Pair]:
    """Eight identities, and PAIRS pairs of photographs of them."""
    generator = torch.Generator().manual_seed(seed)
    means = 2 * torch.randn(8, 2, generator=generator)
    law = Mixture.isotropic(torch.ones(8) / 8, means, torch.tensor(std))
    who = torch.stack([torch.randperm(8, generator=generator)[:2] for _ in range(PAIRS)])
    photographs = means[who] + std * torch.randn(PAIRS, 2, 2, generator=generator)
    return law, Pair(photographs[:, 0], photographs[:, 1])


def recognisers(seed: int) -> list[Embedding]:
    """Three, each the cosine of four affine numbers. Under the Euclidean distance of linear ones the pixel mean would
    be the best morph, by the triangle inequality, and there would be nothing to look for.
    """
    generator = torch.Generator().manual_seed(1000 + seed)
    drawn = [(torch.randn(2, 4, generator=generator), torch.randn(4, generator=generator)) for _ in range(3)]
    return [Embedding(lambda x, m=m, b=b: x @ m + b, distance=COSINE) for m, b in drawn]


def found(model: Model, pair: Pair, eyes: list[Embedding], plan: Plan, strategy: MorphStrategy) -> Morph:
    encoder = StochasticEncoder() if plan is SDE else FlowEncoder()
    return morph(
        model, plan, pair, eyes[:2], strategy, loss=TERMS, judges=eyes[2:], encoder=encoder, progress=False
    )


def length(model: Model, pair: Pair, eyes: list[Embedding], plan: Plan, make: Make, rate: float) -> int:
    """The longest run within the budget: cost is affine in the length."""
    one = Pair(pair.first[:1], pair.second[:1])
    cost = [run.nfe + run.vjps for n in (1, 2) for run in (found(model, one, eyes, plan, make(n, rate)),)]
    each = cost[1] - cost[0]
    return 1 if each == 0 else max(1, 1 + (BUDGET - cost[0]) // each)


def best_there_is(
    model: Model, pair: Pair, loss: PairLoss, reach: float = 4.5, n: int = 61
) -> tuple[Tensor, Tensor]:
    """(least loss (B,), images (B, 2)) over all starts, on grids that close in on the best of each pair."""
    losses, images = [], []
    for row in range(PAIRS):
        context = tree_map_only(
            Tensor, lambda v, r=row: v[r : r + 1].expand(n * n, *v.shape[1:]), loss.context
        )
        centre, width, least, image = torch.zeros(2), reach, torch.tensor(torch.inf), torch.zeros(2)
        for _ in range(5):
            line = torch.linspace(-width, width, n)
            starts = centre + torch.cartesian_prod(line, line)
            with torch.no_grad():
                out = sample(model, ODE, starts, gradient=None)
                values = loss.given(out, context)
            k = values.argmin()
            if values[k] < least:
                least, image = values[k], out[k]
            centre, width = starts[k], 8 * width / n
        losses.append(least)
        images.append(image)
    return torch.stack(losses), torch.stack(images)


def interval(values: Tensor, seed: int = 0) -> list[float]:
    """95 % of the means of pairs drawn again, with replacement."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(values), (2000, len(values)), generator=generator)
    return values[drawn].mean(1).quantile(torch.tensor([0.025, 0.975])).tolist()


def table(std: float) -> dict[str, dict[str, object]]:
    """Of every strategy: how far above the best its loss is, and what the judge makes of it."""
    (tuned_law, tuned_pair), (law, pair) = crowd(1, std), crowd(2, std)
    tuned, model = tuned_law.denoiser(VP()), law.denoiser(VP())
    eyes = recognisers(0)
    loss = TERMS.of(Scene(model, ODE, pair, FlowEncoder()), tuple(eyes[:2]))
    least, image = best_there_is(model, pair, loss)
    sight = [eyes[2].describe(v) for v in (image, pair.first, pair.second)]
    judged = torch.stack([eyes[2].distance(sight[0], each) for each in sight[1:]]).amax(0)
    rows: dict[str, dict[str, object]] = {
        "brute force": {"loss": float(least.mean()), "excess": 0.0, "judge": float(judged.mean())}
    }
    for name, (plan, make, rates) in STRATEGIES.items():
        began = time.time()
        steps = length(tuned, tuned_pair, eyes, plan, make, rates[0])
        tried = {
            rate: float(found(tuned, tuned_pair, eyes, plan, make(steps, rate)).loss.mean())
            for rate in (rates if len(rates) > 1 else ())
        }
        rate = min(tried, key=lambda r: tried[r]) if tried else rates[0]
        run = found(model, pair, eyes, plan, make(steps, rate))
        excess = run.loss - least
        rows[name] = {
            "loss": float(run.loss.mean()),
            "excess": float(excess.mean()),
            "interval": interval(excess),
            "within_1_percent": float((excess <= 0.01 * least).double().mean()),
            "judge": float(run.worse[2].mean()),
            "steps": steps,
            "rate": rate,
            "nfe": run.nfe,
            "vjps": run.vjps,
            "looks": run.looks,
        }
        print(f"{std:4} {name:32s} excess {excess.mean():.4f} judge {run.worse[2].mean():.3f} "
              f"{run.nfe}+{run.vjps} rate {rate} {time.time() - began:.0f} s", flush=True)  # fmt: skip
    return rows


def draw(tables: dict[str, dict[str, dict[str, object]]]) -> None:
    """Excess over the brute-force best, strategy by strategy."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(tables), figsize=(11, 4.6), sharey=True)
    for axis, (std, rows) in zip(axes, tables.items(), strict=True):
        names = [name for name in rows if name != "brute force"][::-1]
        means = [max(float(rows[name]["excess"]), 1e-4) for name in names]  # type: ignore[arg-type]
        ends = [[max(end, 1e-4) for end in rows[name]["interval"]] for name in names]  # type: ignore[union-attr]
        for k, (mean, (low, high)) in enumerate(zip(means, ends, strict=True)):
            colour = "#1f4e79" if names[k].startswith("end") else "#909090"
            axis.plot([low, high], [k, k], color=colour, lw=2)
            axis.plot(mean, k, "o", color=colour)
        axis.set_xscale("log")
        axis.set_yticks(range(len(names)), names)
        axis.set(title=f"spread of an identity {std}", xlabel="loss above the best there is")
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(RESULTS / "identities.png", dpi=150, facecolor="white")


def main() -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    tables: dict[str, dict[str, dict[str, object]]] = {}
    for std in (0.5, 0.15):
        tables[str(std)] = table(std)
        facts = {"budget": BUDGET, "pairs": PAIRS, "steps": STEPS, "loss": str(TERMS), "spreads": tables}
        (RESULTS / "identities.json").write_text(json.dumps(facts, indent=1) + "\n")
    draw(tables)


if __name__ == "__main__":
    main()
