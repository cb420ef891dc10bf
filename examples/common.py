"""What every example shares: its flags, its colours, and how it writes what it found."""

import argparse
import json
import pathlib
from typing import Any

import torch

# What a flag says, in every example that takes it.
FLAGS = {
    "sampler_steps": "steps of the sampler",
    "optimiser_steps": "steps of the optimiser, or of the attack, on what enters a run: noise, a latent, an image",
    "updates": "updates of what is learned for all runs: weights, a schedule, a solver",
    "batch": "samples of one update; 0: the objective's own",
    "count": "samples that are judged; pictures, problems or draws where the example says so",
    "copies": "samples drawn for each problem, or augmented copies of each picture",
    "pairs": "pairs that are worked on or learned from",
    "model": "folder of a diffusers checkpoint; nothing is downloaded",
    "tiny": "a small pipeline with random weights in place of --model",
    "image": "a picture's file",
    "clip": "folder of a CLIP checkpoint; nothing is downloaded",
    "guidance": "classifier-free guidance scale",
    "objective": "by what is learned; a wrong name lists them",
    "reward": "what is rewarded; a wrong name lists them",
    "gradient": "by which gradient; a wrong name lists them",
    "kl": "weight of the KL divergence from the base model",
    "rank": "of the LoRA layers; 0: all weights",
    "lr": "learning rate; 0: the objective's own",
    "resume": "go on from the last checkpoint under --out",
}

# Okabe and Ito's colours, which the colour-blind tell apart, the darkest first; each with a marker and a line of its
# own, so that the picture also reads in grey. A panel has at most seven curves.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
LINES = ("-", (0, (6, 2)), (0, (1, 1)), (0, (6, 2, 1, 2)), (0, (3, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (9, 2)))
GREY, PALE = "#8c8c8c", "#c9d6e3"  # what others are measured by; areas and bars under something else


def look(k: int, **more: Any) -> dict[str, Any]:
    """The k-th curve's colour, marker and line, for `axis.plot`."""
    return {"color": COLOURS[k], "marker": MARKERS[k], "ls": LINES[k], "lw": 1.8, "ms": 5} | more


def pyplot() -> Any:
    """matplotlib.pyplot that needs no screen, with open frames."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})
    return plt


def options(doc: str | None, **extra: Any) -> argparse.Namespace:
    """--device, --seed, --out and the example's own flags (name=default; False: a switch), which FLAGS describes."""
    parser = argparse.ArgumentParser(description=(doc or "").strip().splitlines()[0])
    best = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=best, help=f"default: the best there is, {best}")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn; default: 0")
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("out"), help="folder of what is written"
    )
    for name, default in extra.items():
        kind: dict[str, Any] = {"type": type(default), "default": default}
        if default is False:
            kind = {"action": "store_true"}
        text = "; ".join(filter(None, (FLAGS.get(name), f"default: {default!r}")))
        parser.add_argument(f"--{name.replace('_', '-')}", help=text.replace("%", "%%"), **kind)
    found = parser.parse_args()
    found.out.mkdir(parents=True, exist_ok=True)
    return found


def write(out: pathlib.Path, name: str, figure: Any, facts: dict[str, Any]) -> None:
    """out/name.png and out/name.json."""
    figure.savefig(out / f"{name}.png", dpi=150, bbox_inches="tight", facecolor="white")
    (out / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(f"wrote {out / name}.png and .json")


def digits_grid(axis: Any, rows: list[torch.Tensor]) -> None:
    """Rows of images (B, 1, S, S) as one sheet of dark digits on white, without ticks or frame."""
    widest, side = max(len(row) for row in rows), rows[0].shape[-1]
    sheet = torch.full((len(rows) * side, widest * side), -1.0)
    for r, row in enumerate(rows):
        for k, image in enumerate(row):
            sheet[r * side : (r + 1) * side, k * side : (k + 1) * side] = image[0].detach().cpu()
    axis.imshow(sheet, cmap="gray_r", vmin=-1, vmax=1, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
