"""docs/gallery.md is what its script writes from the committed JSON; each picture is small and on the page."""

import importlib.util
import json
import pathlib
import re
import shutil

import pages
import pytest
import torch

GALLERY = pages.ROOT / "docs" / "gallery.md"


@pytest.fixture
def gallery():
    spec = importlib.util.spec_from_file_location("gallery_script", pages.ROOT / "docs" / "gallery.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_json_says(gallery):
    """`python docs/gallery.py` writes it anew."""
    assert gallery.page() == GALLERY.read_text()


def test_every_example_is_shown_or_said_not_to_be(gallery):
    shown = {entry.example for entry in gallery.entries()}
    drawing = {path.stem for path in pages.EXAMPLES if "def main" in path.read_text()}
    drawing -= {name for name in drawing if name.startswith("train")}
    assert shown | set(re.findall(r"`(\w+)\.py`", gallery.TAIL)) == drawing and len(shown) == 14


def test_pictures_are_small_and_on_the_page(gallery):
    named = {pages.ROOT / "docs" / link for link in re.findall(r"!\[.*?\]\((.*?)\)", GALLERY.read_text())}
    assert named == {gallery.picture(entry.example) for entry in gallery.entries()}
    assert set((pages.ROOT / "docs" / "gallery").glob("*.png")) <= named
    assert all(path.stat().st_size <= gallery.LARGEST == 250_000 for path in named)


def test_each_says_a_number_and_a_baseline(gallery):
    for entry in gallery.entries():
        said = entry.markdown().split("\n\n")[2]
        assert re.search(r"\d", said) and entry.seen and not re.search(r"[{}]", said), entry.example
        assert len(re.findall(r"\{f\[", entry.said)) >= 2, entry.example
        assert "baseline" in said or "where other real digits have" in said, entry.example


def test_another_run_changes_the_page(gallery, tmp_path, monkeypatch):
    """Pictures and JSON are taken together, and what is said follows the JSON."""
    docs, results, out = tmp_path / "docs", tmp_path / "benchmarks" / "results", tmp_path / "out"
    shutil.copytree(pages.ROOT / "docs" / "gallery", docs / "gallery")
    for name in ("face_morph.png", "tilted_mixture.png"):
        shutil.copy(pages.ROOT / "docs" / name, docs)
    shutil.copytree(gallery.RESULTS, results)
    out.mkdir()
    found = json.loads(gallery.kept("reflow").read_text())
    found["student"]["bend"] = 0.123
    (out / "reflow.json").write_text(json.dumps(found))
    monkeypatch.setattr(gallery, "DOCS", docs)
    monkeypatch.setattr(gallery, "RESULTS", results)
    with pytest.raises(FileNotFoundError, match="expected both of one run"):
        gallery.take(out)
    noise = torch.randint(256, (30, 1800, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    save(noise, out / "reflow.png")
    before = gallery.page()
    gallery.take(out)
    assert 0 < (docs / "gallery" / "reflow.png").stat().st_size <= gallery.LARGEST
    changed = set(gallery.page().split()) - set(before.split())
    assert changed == {"0.123,"}
    with pytest.raises(ValueError, match="expected at most 1000"):
        monkeypatch.setattr(gallery, "LARGEST", 1000)
        gallery.take(out)


def save(picture: torch.Tensor, path: pathlib.Path) -> None:
    from PIL import Image

    Image.fromarray(picture.numpy()).save(path)
