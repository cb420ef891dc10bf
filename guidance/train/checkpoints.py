"""Checkpoints that are whole or not there: written aside, synced, renamed; the last few stay."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .processes import Processes

MANIFEST = "whole.json"


class Checkpoints:
    """The folders `iteration-XXXXXXXX` under `folder`, a place that all processes see.

    Args:
        folder: made on the first save.
        keep: whole ones that stay, at least 1.
        world: all processes call `save` and `load` together.
    """

    def __init__(self, folder: Path, keep: int, world: Processes) -> None:
        self.folder, self.keep, self.world = folder, keep, world

    def found(self) -> list[Path]:
        """Whole checkpoints, oldest first. Anything else in the folder is passed over."""
        return [path for path in sorted(self.folder.glob("iteration-????????")) if _whole(path)]

    def latest(self) -> Path | None:
        """The newest whole one, as the first process sees it."""
        found = self.found()
        return found[-1] if found else None

    def save(
        self,
        iteration: int,
        tensors: dict[str, dict[str, Tensor]],
        state: dict[str, Any],
        own: dict[str, Any],
    ) -> Path:
        """Write one: `tensors` as safetensors files, `state` once, `own` by every process. Returns its folder."""
        from safetensors.torch import save_file

        final, aside = self.folder / f"iteration-{iteration:08d}", self.folder / f".writing-{iteration:08d}"
        if self.world.first:
            for stale in (*self.folder.glob(".writing-*"), *self.folder.glob(".replaced-*")):
                shutil.rmtree(stale)
            aside.mkdir(parents=True)
        self.world.wait()
        _write(aside / f"process-{self.world.rank}.pt", lambda path: torch.save(own, path))
        if self.world.first:
            _write(aside / "state.pt", lambda path: torch.save(state, path))
            for name, values in tensors.items():
                contiguous = {key: value.detach().clone().contiguous() for key, value in values.items()}
                _write(aside / f"{name}.safetensors", lambda path, values=contiguous: save_file(values, path))
        self.world.wait()
        if self.world.first:
            sizes = {path.name: path.stat().st_size for path in sorted(aside.iterdir())}
            _write(aside / MANIFEST, lambda path: path.write_text(json.dumps(sizes)))
            _sync(aside)
            if final.exists():  # out of the way first: whoever is stopped here finds both
                os.rename(final, self.folder / f".replaced-{iteration:08d}")
            os.rename(aside, final)
            _sync(self.folder)
            for old in self.found()[: -self.keep]:
                shutil.rmtree(old)
        self.world.wait()
        return final

    def load(self, path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any], dict[str, Any], bool]:
        """(tensors, state, own, exact): more processes than wrote it take the first's own, which is not exact."""
        from safetensors.torch import load_file

        tensors = {file.stem: load_file(file) for file in path.glob("*.safetensors")}
        mine = path / f"process-{self.world.rank}.pt"
        own, state = (
            torch.load(file, map_location="cpu", weights_only=True)  # not where another process had them
            for file in (mine if mine.exists() else path / "process-0.pt", path / "state.pt")
        )
        return tensors, state, own, mine.exists()


def _whole(path: Path) -> bool:
    try:
        sizes = json.loads((path / MANIFEST).read_text())
        return all((path / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _write(path: Path, how: Callable[[Path], Any]) -> None:
    how(path)
    _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
