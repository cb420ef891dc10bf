"""Writes docs/gallery.md from the examples' committed JSON and docs/gallery/captions.toml.

    python docs/gallery.py               the page anew, from what is committed
    python docs/gallery.py --from out    first take the pictures and JSON of runs that wrote into out/

So the page cannot say what no example found: a number on it is read from the JSON that came with the picture, and
tests/project/test_gallery.py writes the page again and compares.
"""

import argparse
import json
import pathlib
import re
import shutil
import textwrap
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pullback.guidance import Proportion

DOCS = pathlib.Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results"
KEPT = {  # where other pages cite an example's JSON; the others are in `examples`
    "": ("face_morph", "tilted_mixture", "digit_samples"),
    "digits": ("digit_guidance", "edit_digits", "restore_digits", "lookahead", "robustness", "finetune"),
}
LARGEST = 250_000  # bytes of a picture

HEAD = """# Gallery

[Index](index.md) · before: [editing](editing.md), [guidance](guidance.md), [finetune](finetune.md)
· after: [morphs](morphs.md)

One picture of each example, with what it shows in numbers, a baseline to judge them by, and the command that draws it
(default settings, seed 0, one core). "Read as" a digit means by a classifier of another architecture that no loss and
no sampler saw; for the purifier both classifiers are given. A distance is the rms difference of pixels in [-1, 1]. The
models are described on [their card](zoo.md). `docs/gallery.py` writes this page from the JSON that an example leaves
beside its picture.
"""
TAIL = """
## Not shown

`diffusers_edit.py`, `diffusers_finetune.py` and `diffusers_optimise.py` draw with the checkpoint you give them; with
`--tiny` its weights are random and there is nothing to see. `learned_solver.py` and `learned_guidance.py` are told of
in [learning](learning.md).
"""


def kept(example: str) -> pathlib.Path:
    """Where the example's JSON is committed."""
    folder = next((folder for folder, names in KEPT.items() if example in names), "examples")
    return RESULTS / folder / f"{example}.json"


def picture(example: str) -> pathlib.Path:
    """Where its picture is; two are on other pages, which had them first."""
    old = DOCS / f"{example}.png"
    return old if old.exists() else DOCS / "gallery" / f"{example}.png"


def with_interval(share: float, count: int) -> str:
    """The share and its interval of 95 % by Wilson."""
    low, high = Proportion(share * count, count).wilson()
    return f"{share:.0%} [{100 * low:.0f}, {100 * high:.0f}]"


def of_sample(f: dict[str, Any]) -> dict[str, Any]:
    at_24 = {name: dict(points).get(24) for panel in f["error"].values() for name, points in panel.items()}
    methods = sum(map(len, f["error"].values()))
    return {"methods": methods, "least": at_24[f["best_at_24"]["rms"]], "ddim": at_24["DDIM()"]}


def of_lookahead(f: dict[str, Any]) -> dict[str, Any]:
    read = {name: with_interval(row["judge"], 30) for name, row in f["steered"].items()}
    return {"read": read, "at": f["cosine"]["digits, a classifier's loss"][f["times"].index(0.8)]}


def of_robustness(f: dict[str, Any]) -> dict[str, Any]:
    ends = {name: curve[-1] for name, curve in f["success"].items()}
    return {
        "ends": ends,
        "interval": with_interval(ends["exact gradient"][1], f["count"]).split(maxsplit=1)[1],
    }


DERIVED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "sample": of_sample, "lookahead": of_lookahead, "robustness": of_robustness,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A picture on the page: what one sees, and what is said of it."""

    example: str
    title: str
    seen: str
    said: str

    def facts(self) -> dict[str, Any]:
        """The example's JSON, and what is counted from it."""

        def numbered(pairs: list[tuple[str, Any]]) -> dict[Any, Any]:
            return {int(key) if key.isdigit() else key: value for key, value in pairs}

        found = json.loads(kept(self.example).read_text(), object_pairs_hook=numbered)
        return found | DERIVED.get(self.example, lambda f: {})(found)

    def markdown(self) -> str:
        text = re.sub(r"(\d)%", r"\1 %", self.said.format(f=self.facts()))
        text = textwrap.fill(" ".join(text.split()), 118, break_long_words=False, break_on_hyphens=False)
        place = picture(self.example).relative_to(DOCS).as_posix()
        source = kept(self.example).relative_to(DOCS.parent).as_posix()
        head = f"\n## {self.title}\n\n![{self.seen}]({place})\n\n{text}\n\n"
        command = f"```sh\npython examples/{self.example}.py\n```\n\n"
        return head + command + f"[The example](../examples/{self.example}.py); its numbers: `{source}`.\n"


def entries() -> list[Entry]:
    """In the page's order."""
    captions = tomllib.loads((DOCS / "gallery" / "captions.toml").read_text())
    return [Entry(example, **caption) for example, caption in captions.items()]


def page() -> str:
    return HEAD + "".join(entry.markdown() for entry in entries()) + TAIL


def shrunk(source: pathlib.Path, target: pathlib.Path) -> None:
    """The picture at most 1500 pixels wide and in so few colours that it has no more than LARGEST bytes."""
    from PIL import Image

    with Image.open(source) as whole:
        shown = whole.convert("RGB")
    shown.thumbnail((1500, 4000))
    for colours in (256, 128, 64, 32, 16):
        shown.quantize(colours, dither=Image.Dither.NONE).save(target, optimize=True)
        if target.stat().st_size <= LARGEST:
            return
    raise ValueError(f"{source}: got {target.stat().st_size} bytes in 16 colours, expected at most {LARGEST}")


def take(out: pathlib.Path) -> None:
    """Pictures and JSON of the runs in `out`, where it has them."""
    for entry in entries():
        drawn, told = (out / f"{entry.example}.{ending}" for ending in ("png", "json"))
        if drawn.exists() != told.exists():
            raise FileNotFoundError(
                f"{out}: got one of {drawn.name} and {told.name}, expected both of one run"
            )
        if drawn.exists():
            kept(entry.example).parent.mkdir(exist_ok=True)
            shutil.copy(told, kept(entry.example))
            shrunk(drawn, picture(entry.example))
            print(f"{entry.example}: {picture(entry.example).stat().st_size // 1000} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--from", dest="out", type=pathlib.Path, help="folder that the examples wrote into")
    run = parser.parse_args()
    if run.out is not None:
        take(run.out)
    (DOCS / "gallery.md").write_text(page())


if __name__ == "__main__":
    main()
