"""Recognisers on the bundled faces: distances, thresholds and error rates with intervals over people.

    python benchmarks/recognisers.py [--out benchmarks/results]

The 100 faces show 100 people, one image each. So the images of one person are made here: the face mirrored, and the
face moved by a pixel, with grain and more contrast. That is milder than two photographs: FNMR is a lower bound.
"""

import argparse
import json
import pathlib
import time

import torch
from torch import Tensor

from pullback.guidance import (
    COSINE,
    Calibration,
    Chip,
    Comparisons,
    EightBits,
    Embedding,
    dlib_black_box,
    dlib_face,
    false_match_rate,
)
from pullback.zoo import face_images, load

ROOT = pathlib.Path(__file__).parents[1]

QUANTILES = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])


def changed(images: Tensor) -> Tensor:
    """Each face moved by a pixel to the right, with grain of standard deviation 0.05 and contrast times 1.1."""
    grain = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (1.1 * images.roll(1, 3) + 0.05 * grain).clamp(-1, 1)


def spread(distances: Tensor) -> list[float]:
    """Least, quartiles, most."""
    return [round(v, 4) for v in distances.quantile(QUANTILES.to(distances)).tolist()]


def calibrated(fmr: float, impostors: Comparisons, genuine: Comparisons) -> dict[str, object]:
    found = Calibration.of(fmr, impostors, genuine)
    ends = lambda interval: [round(float(interval.low), 4), round(float(interval.high), 4)]  # noqa: E731
    return {
        "fmr": fmr,
        "threshold": round(found.threshold, 4),
        "threshold_interval": ends(found.thresholds),
        "fmr_interval": ends(found.rates),
        "fnmr": round(found.fnmr, 4),
        "fnmr_interval": ends(found.fnmrs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benchmarks" / "results")
    out = parser.parse_args().out
    faces = face_images()
    recognisers = {"dlib": dlib_face()} | {
        f"embedder{k}": Embedding(load(f"embedder{k}"), distance=COSINE) for k in range(3)
    }
    facts: dict[str, object] = {"faces": len(faces)}
    for name, recogniser in recognisers.items():
        impostors, own = Comparisons.among(recogniser, faces), recogniser.threshold
        mirrored, moved = (
            Comparisons.same(recogniser, faces, other) for other in (faces.flip(3), changed(faces))
        )
        facts[name] = {
            "different": spread(impostors.distances),
            "mirrored": spread(mirrored.distances),
            "moved": spread(moved.distances),
            "fmr_at_own_threshold": own and round(false_match_rate(impostors.distances, own), 4),
            "at": [calibrated(fmr, impostors, moved) for fmr in (0.01, 0.001)],
        }
        print(name, json.dumps(facts[name], indent=1))
    seconds = {}
    found = {}
    for name, recogniser in {
        "torch": dlib_face(chip=Chip(levels=EightBits())),
        "dlib": dlib_black_box(),
    }.items():
        began = time.perf_counter()
        with torch.no_grad():
            found[name] = recogniser.describe(faces)
        seconds[name] = round((time.perf_counter() - began) / len(faces), 3)
    facts["torch_against_dlib"] = {
        "largest_difference": float((found["torch"] - found["dlib"]).abs().max()),
        "seconds_an_image": seconds,
    }
    print(facts["torch_against_dlib"])
    out.mkdir(parents=True, exist_ok=True)
    (out / "recognisers.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
