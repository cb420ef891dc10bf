"""The main job: one image that face recognisers take for two people, found by exact gradients through a sampler.

    python examples/face_morph.py                              one pair, in a minute
    python examples/face_morph.py --pairs 20 --gradient all    the table: blends, searches and gradients at equal cost

Two faces are encoded by the probability flow. In the mean of their pixels or latents a recogniser mostly sees neither;
so the latent is moved until dlib's recogniser and two of ours find both faces in it. A third one of ours, which the
loss never sees, judges. This measures how far recognisers can be deceived: docs/morphs.md.
"""

# %%
import resource
import time
from typing import Any

import torch
from common import options, write
from shared.morph_figures import draw_morph, draw_table
from shared.morph_judges import RATES, Judge, judges, match_rate, sharpness, unreality
from shared.morph_strategies import LOSS, Entry, entries, gradients
from torch import Tensor

from pullback.adjoint import sample
from pullback.guidance import Morph, MorphLoss, Pair, Slerp, morph
from pullback.solvers import Denoiser
from pullback.zoo import denoiser, face_images

FRAMES = 9  # of the strip
WEIGHTS = {"dlib": 3.0}  # in the loss; 1 for the others
# who is attacked; the others judge
SETTINGS = {
    "dlib": ("dlib",),
    "ours": ("embedder 0", "embedder 1", "embedder 2"),
    "dlib and two of ours": ("dlib", "embedder 0", "embedder 1"),
}


# %%
def run(model: Denoiser, entry: Entry, pairs: Tensor, known: dict[str, Judge], setting: str) -> Morph:
    """Morphs of `pairs` (2, B, ...); distances come in the order attacked, held out."""
    attacked = SETTINGS[setting]
    loss = MorphLoss(LOSS.identity, tuple(WEIGHTS.get(name, 1.0) for name in attacked))
    return morph(
        model,
        entry.plan,
        Pair(pairs[0], pairs[1]),
        [known[name].recogniser for name in attacked],
        entry.strategy,
        loss=loss,
        judges=[known[name].recogniser for name in known if name not in attacked],
        encoder=entry.encoder,
    )


def worse(found: Morph, known: dict[str, Judge], setting: str) -> dict[str, Tensor]:
    """By recogniser the distance (B,) to the farther of the two faces."""
    attacked = SETTINGS[setting]
    names = [*attacked, *(name for name in known if name not in attacked)]
    return dict(zip(names, found.worse, strict=True))


def one_pair(arguments: Any, model: Denoiser, faces: Tensor, known: dict[str, Judge]) -> None:
    setting = "dlib and two of ours"
    pair = faces[[arguments.first, arguments.second]][:, None]
    chosen = gradients(model.process, arguments.optimiser_steps)[arguments.gradient]
    rows = {entry.name: entry for entry in entries(model.process, arguments.optimiser_steps)}
    shown = {"pixel mean": rows["pixel mean"], "mean of latents": rows["slerp"], "optimised latent": chosen}
    found = {name: run(model, entry, pair, known, setting) for name, entry in shown.items()}
    distances = {name: worse(each, known, setting) for name, each in found.items()}
    facts: dict[str, Any] = {
        "attacked": SETTINGS[setting],
        "thresholds": {
            name: dict(zip(map(str, RATES), judge.thresholds, strict=True)) for name, judge in known.items()
        },
        "worse_distance": {
            name: {judge: round(float(value), 4) for judge, value in row.items()}
            for name, row in distances.items()
        },
        "nfe": found["optimised latent"].nfe,
        "vjps": found["optimised latent"].vjps,
        "gradient": str(arguments.gradient),
    }
    held_out = next(name for name in known if name not in SETTINGS[setting])
    for name in ("dlib", held_out):
        said = ", ".join(f"{method} {float(row[name]):.3f}" for method, row in distances.items())
        place = "held out" if name == held_out else "attacked"
        print(
            f"{name} ({place}), distance to the farther face: {said}; threshold {known[name].thresholds[0]:.3f}"
        )
    path = strip(model, chosen, pair, found["optimised latent"])
    figure = draw_morph(pair, {name: each.images for name, each in found.items()}, path, distances, known,
                        SETTINGS[setting])  # fmt: skip
    finish(arguments, "face_morph", figure, facts)


def strip(model: Denoiser, entry: Entry, pair: Tensor, found: Morph) -> Tensor:
    """(FRAMES, ...): from one face to the other by way of the morph, along great circles of latents."""
    assert found.latents is not None
    ends = [entry.encoder.encode(model, entry.plan, face, None)[0] for face in pair]
    half, between = FRAMES // 2, Slerp()
    frames = []
    for k in range(FRAMES):
        low, high = (ends[0], found.latents) if k <= half else (found.latents, ends[1])
        latents = low.towards(high, k / half if k <= half else (k - half) / half, between, None)
        assert isinstance(latents.start, Tensor)
        frames.append(sample(model, entry.plan, latents.start, noise=latents.noise, gradient=None))
    return torch.cat(frames)


# %%
def table(arguments: Any, model: Denoiser, faces: Tensor, known: dict[str, Judge]) -> None:
    order = torch.randperm(len(faces), generator=torch.Generator().manual_seed(arguments.seed))
    pairs = faces[order[: 2 * arguments.pairs].reshape(2, arguments.pairs)]
    every, ways = (
        entries(model.process, arguments.optimiser_steps),
        gradients(model.process, arguments.optimiser_steps),
    )
    if arguments.gradient != "all":
        others = {each.name for name, each in ways.items() if name != arguments.gradient}
        every = [each for each in every if each.name not in others]
    facts: dict[str, Any] = {
        "pairs": arguments.pairs,
        "steps": arguments.optimiser_steps,
        "faces_themselves": {
            "sharpness": float(sharpness(pairs.flatten(0, 1)).mean()),
            "unreality": float(unreality(model, pairs.flatten(0, 1)).mean()),
        },
        "settings": {},
    }
    for setting in SETTINGS:
        rows = facts["settings"][setting] = {}
        baseline: dict[str, Tensor] = {}
        for entry in every:
            began, found = time.time(), run(model, entry, pairs, known, setting)
            distances = worse(found, known, setting)
            baseline = baseline or distances
            rows[entry.name] = {
                "worse_distance": {name: round(float(value.mean()), 4) for name, value in distances.items()},
                "mmpmr": {
                    name: {str(rate): match_rate(judge, rate, found.images, pairs) for rate in RATES}
                    for name, judge in known.items()
                },
                "beats_best_pixel_mean": {
                    name: int((value < baseline[name]).sum()) for name, value in distances.items()
                },
                "sharpness": round(float(sharpness(found.images).mean()), 4),
                "unreality": round(float(unreality(model, found.images).mean()), 4),
                "nfe": found.nfe,
                "vjps": found.vjps,
                "looks": found.looks,
                "seconds": round(time.time() - began, 1),
            }
            said = ", ".join(
                f"{name} {value:.3f}" for name, value in rows[entry.name]["worse_distance"].items()
            )
            print(f"attacked {setting}; {entry.name}: {said}", flush=True)
    finish(arguments, "face_morph_table", draw_table(facts, SETTINGS), facts)


def finish(arguments: Any, name: str, figure: Any, facts: dict[str, Any]) -> None:
    facts["seconds"] = round(time.time() - arguments.began, 1)
    facts["peak_MiB"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    facts["device"] = arguments.device
    print(f"{facts['seconds']} s, peak {facts['peak_MiB']} MiB")
    write(arguments.out, name, figure, facts)


def main() -> None:
    arguments = options(__doc__, pairs=1, optimiser_steps=40, first=41, second=42, gradient="checkpoint")
    arguments.began = time.time()
    torch.manual_seed(arguments.seed)
    model, faces = denoiser("faces"), face_images().to(arguments.device)
    model.network.to(arguments.device)  # type: ignore[attr-defined]
    names = [*gradients(model.process, 1), *(["all"] if arguments.pairs > 1 else [])]
    if arguments.gradient not in names:
        raise SystemExit(f"--gradient: got {arguments.gradient!r}, expected one of {', '.join(names)}")
    known = judges(faces)
    (one_pair if arguments.pairs == 1 else table)(arguments, model, faces, known)


if __name__ == "__main__":
    main()
