"""What every example shares: its options, its output folder, and how it writes what it found."""

import argparse
import json
import pathlib
from typing import Any

import torch


def options(doc: str | None, **extra: Any) -> argparse.Namespace:
    """--device, --seed, --out and the example's own options (name=default); those of False are switches."""
    parser = argparse.ArgumentParser(description=(doc or "").strip().splitlines()[0])
    best = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=best, help=f"default: the best there is, {best}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out"))
    for name, default in extra.items():
        if default is False:
            parser.add_argument(f"--{name}", action="store_true")
        else:
            parser.add_argument(f"--{name}", type=type(default), default=default, help=f"default: {default}")
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
