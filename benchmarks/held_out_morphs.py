"""Morphs of people whom no model has seen: procedural faces, judged by recognisers that the loss never saw.

    python benchmarks/held_out_morphs.py [--pairs 24] [--people test|validation] [--rows REGEX]

writes benchmarks/results/held_out_morphs.json and .png (with --people validation, on which settings are chosen, into
held_out_morphs_validation). A morph is made from one photograph of each of two people and shown to the gate: four other
photographs of either. Recogniser 0 is attacked; 1 is of its architecture with another seed, 2 of another architecture.
Thresholds are those of the card, from other people. Intervals are over pairs, of which no two share a person.
"""

import argparse
import json
import pathlib
import re
import sys
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "examples"))

from procedural import TEST, VALIDATION, faces, persons, photographs, render, sheet  # noqa: E402
from shared.procedural_models import autoencoder, recogniser, thresholds  # noqa: E402

from pullback.adjoint import AdjointDEIS, Checkpoint, Continuous, Gradient, Reversible  # noqa: E402
from pullback.guidance import Over, adam  # noqa: E402
from pullback.guidance.morphs import (  # noqa: E402
    BestMorph,
    DenoiserError,
    EndToEnd,
    FlowEncoder,
    GreedyMorph,
    GreedySearch,
    InvertedBlend,
    LatentBlend,
    MorphLoss,
    MorphStrategy,
    Pair,
    PixelBlend,
    Views,
    morph,
)
from pullback.guidance.recognition import (  # noqa: E402
    COSINE,
    Embedding,
    MorphScores,
    bootstrap_rate,
    mmpmr_min_max,
    mmpmr_prod_avg,
)
from pullback.solvers import Denoiser, DPMSolverPP, Method, ReversibleHeun, UniformLambda  # noqa: E402

ENDS = {"start": 1.0, "end": 0.003}
CALLS, STEPS, RATE, LEASH = 10, 20, 0.05, 3.0
PROBES = 4
FMRS = (0.01, 0.001)
LOSS = MorphLoss(views=Views(reach=1, grain=0.1))


DRAWN = (
    "the renderer's own half", "pixel mean, best of 9", "slerp and code, best of 9", "greedy search", "greedy",
    "noise, Checkpoint", "noise, AdjointDEIS", "noise and code, Checkpoint", "noise and code, AdjointDEIS",
    "noise and code, leashed to the inverted mean",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    strategy: MorphStrategy
    method: Method = DPMSolverPP(2)
    steps: int = CALLS
    attacked: tuple[int, ...] = (0,)


GRADIENTS: dict[str, tuple[Gradient, Method, int]] = {
    "Checkpoint": (Checkpoint(), DPMSolverPP(2), CALLS),
    "Reversible": (Reversible(), ReversibleHeun(), CALLS - 1),
    "Continuous": (Continuous(), DPMSolverPP(2), CALLS),
    "AdjointDEIS": (AdjointDEIS(), DPMSolverPP(2), CALLS),
}
MOVED = {
    "noise": Over(),
    "code": Over(x=False, cond=True, cond_rows=True),
    "noise and code": Over(cond=True, cond_rows=True),
}


def rows() -> dict[str, Row]:
    found = {
        "pixel mean": Row(PixelBlend()),
        "pixel mean, best of 9": Row(BestMorph.of_weights(PixelBlend())),
        "inverted pixel mean": Row(InvertedBlend()),
        "slerp and mean code": Row(LatentBlend()),
        "slerp and code, best of 9": Row(BestMorph.of_weights(LatentBlend())),
        "greedy search": Row(GreedySearch()),
        "greedy": Row(GreedyMorph(rounds=20)),
    }
    for moved, over in MOVED.items():
        for name, (gradient, method, steps) in GRADIENTS.items():
            strategy = EndToEnd(over=over, gradient=gradient, optimiser=adam(RATE), steps=STEPS)
            found[f"{moved}, {name}"] = Row(strategy, method, steps)
    both = EndToEnd(over=MOVED["noise and code"], optimiser=adam(RATE), steps=STEPS)
    found["noise and code, leashed to the inverted mean"] = Row(
        replace(both, start=InvertedBlend(), leash=LEASH)
    )
    return {**found, "noise and code, 0 and 1 attacked": Row(both, attacked=(0, 1))}


@dataclass(frozen=True, eq=False)
class Album:
    """Pairs of people and their photographs: `first` and `second` (B, 1, 32, 32), probes (B, 2, P, 1, 32, 32)."""

    pair: Pair
    probes: Tensor
    half: Tensor  # what the renderer draws of the mean of two people, in the mean of their photographs

    @classmethod
    def of(cls, people: range, pairs: int, model: Denoiser) -> "Album":
        order = torch.randperm(len(people), generator=torch.Generator().manual_seed(0))[: 2 * pairs]
        who = [people[int(k)] for k in order]
        one, other = who[:pairs], who[pairs:]
        pictures = [faces(each, [0] * pairs) for each in (one, other)]
        codes = [model.network.encode(each) for each in pictures]  # type: ignore[attr-defined]
        photos = list(range(1, PROBES + 1)) * pairs
        probes = [faces([w for w in each for _ in range(PROBES)], photos) for each in (one, other)]
        shots = [photographs(each, [0] * pairs)[0] for each in (one, other)]
        return cls(
            Pair(*pictures, *codes),
            torch.stack([each.unflatten(0, (pairs, PROBES)) for each in probes], 1),
            render((persons(one) + persons(other)) / 2, (shots[0] + shots[1]) / 2),
        )


def sharpness(images: Tensor) -> Tensor:
    """(B,): mean absolute difference of neighbouring pixels."""
    along = [images.diff(dim=axis).abs().flatten(1).mean(1) for axis in (-2, -1)]
    return (along[0] + along[1]) / 2


def judged(images: Tensor, album: Album, judges: list[Embedding], model: Denoiser) -> dict:
    """Figures of morphs (B, 1, 32, 32); lists have an entry for each recogniser."""
    subjects = torch.stack([album.pair.first, album.pair.second], 1)[:, :, None]
    worse = MorphScores.compare(judges, images, subjects).distances.amax((1, 2))
    unreal, pair = DenoiserError(), album.pair
    plain = torch.cat([pair.first, pair.second])
    with torch.no_grad():
        realism = [unreal(model, each, None).mean() for each in (images, plain)]
    found: dict = {
        "worse_distance": worse.mean(0).tolist(),
        "worse_distances": worse.tolist(),
        "sharpness": float(sharpness(images).mean() / sharpness(plain).mean()),
        "denoiser_error": float(realism[0] / realism[1]),
    }
    for fmr in FMRS:
        strict = [each.with_threshold(limit[fmr]) for each, limit in zip(judges, thresholds(), strict=True)]
        scores = MorphScores.compare(strict, images, album.probes)
        for name, rate in (("min_max", mmpmr_min_max), ("prod_avg", mmpmr_prod_avg)):
            between = bootstrap_rate(lambda drawn, s=scores, r=rate: r(s.take(drawn)), len(images))
            found[f"mmpmr_{name}_at_{fmr}"] = rate(scores).tolist()
            found[f"mmpmr_{name}_at_{fmr}_interval"] = torch.stack([between.low, between.high], 1).tolist()
    return found


def made(row: Row, album: Album, judges: list[Embedding], model: Denoiser) -> tuple[Tensor, dict]:
    began = time.process_time()
    found = morph(
        model,
        row.method.plan(model.process, UniformLambda(row.steps, **ENDS)),
        album.pair,
        [judges[k] for k in row.attacked],
        row.strategy,
        loss=LOSS,
        encoder=FlowEncoder(grid=UniformLambda(24, **ENDS)),
        progress=False,
    )
    spent = {"nfe": found.nfe, "vjps": found.vjps, "looks": found.looks}
    return found.images, {**spent, "cpu_seconds": round(time.process_time() - began, 1)}


def compared(table: dict[str, dict], base: str) -> None:
    """On how many pairs each recogniser finds the farther subject nearer than in the morphs of `base`."""
    reference = torch.tensor(table[base]["worse_distances"])
    for found in table.values():
        won = torch.tensor(found.pop("worse_distances")) < reference
        found["nearer_than_best_pixel_mean"] = won.sum(0).tolist()


def draw(path: pathlib.Path, table: dict[str, dict], pictures: dict[str, Tensor], album: Album) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown, count = [name for name in DRAWN if name in table], 6
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(13, 0.72 * (len(shown) + 2) + 0.7), width_ratios=(1.15, 1)
    )
    strip = [album.pair.first[:count], album.pair.second[:count], *(pictures[name][:count] for name in shown)]
    left.imshow(sheet(torch.cat(strip), count), cmap="gray", vmin=0, vmax=1, aspect="auto")
    names = [
        name.replace("noise and code", "both").replace("leashed to the inverted mean", "leashed")
        for name in shown
    ]
    left.set_yticks(
        [16 + 32 * k for k in range(len(strip))], ["first person", "second person", *names], fontsize=10
    )
    left.set_xticks([])
    places = torch.arange(len(shown)) + 2.0
    for k, (name, colour) in enumerate(
        (("attacked", "#6f9bc4"), ("another seed", "#bcd4ea"), ("another architecture", "#eab676"))
    ):
        values = torch.tensor([table[row]["mmpmr_prod_avg_at_0.01"][k] for row in shown])
        ends = torch.tensor([table[row]["mmpmr_prod_avg_at_0.01_interval"][k] for row in shown])
        where = places + 0.27 * (k - 1)
        right.barh(where.tolist(), (100 * values).tolist(), 0.25, color=colour, label=name)
        for at, (low, high) in zip(where.tolist(), (100 * ends).tolist(), strict=True):
            right.plot((low, high), (at, at), color="#303030", lw=1.1)
    right.set_ylim(len(shown) + 1.5, -0.5)  # level with the pictures
    right.set_yticks([])
    pairs = len(album.half)
    right.set_xlabel(f"MMPMR-ProdAvg at 1 % FMR, in per cent ({pairs} pairs; lines: 95 %)")
    right.legend(frameon=False, loc="upper right", fontsize=10, title="recogniser")
    right.spines[["top", "right", "left"]].set_visible(False)
    figure.tight_layout(w_pad=0.5)
    figure.savefig(path, dpi=120, facecolor="white")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--people", choices=("test", "validation"), default="test")
    parser.add_argument("--rows", default=".*", help="only rows whose names match, from their start")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = autoencoder()
    judges = [Embedding(recogniser(k), limit[FMRS[0]], COSINE) for k, limit in enumerate(thresholds())]
    album = Album.of({"test": TEST, "validation": VALIDATION}[options.people], options.pairs, model)
    pictures = {"the renderer's own half": album.half}
    table: dict[str, dict] = {"the renderer's own half": judged(album.half, album, judges, model)}
    for name, row in rows().items():
        if name == "pixel mean, best of 9" or re.match(options.rows, name):
            pictures[name], spent = made(row, album, judges, model)
            table[name] = {**spent, **judged(pictures[name], album, judges, model)}
            print(
                name,
                {k: v for k, v in table[name].items() if "interval" not in k and k != "worse_distances"},
                flush=True,
            )
    compared(table, "pixel mean, best of 9")
    path = HERE / "results" / f"held_out_morphs{'' if options.people == 'test' else '_validation'}"
    facts = {"pairs": options.pairs, "probes": PROBES, "thresholds": thresholds(), "rows": table}
    path.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
    draw(path.with_suffix(".png"), table, pictures, album)


if __name__ == "__main__":
    main()
