"""Checkpoints that are whole or not there: written aside, synced, renamed, checked by sums; the last few stay."""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .processes import Processes

MANIFEST = "whole.json"
NAME, REPLACED, WRITING = "iteration-", ".replaced-", ".writing-"


class Damaged(ValueError):
    """A checkpoint of which something is missing, changed or unreadable."""


class Checkpoints:
    """The folders `iteration-XXXXXXXX` under `folder`, a place that all processes see.

    Each holds safetensors and weights-only files and a manifest with the size and sha256 of every one.

    Args:
        folder: made on the first save.
        keep: whole ones that stay, at least 1.
        world: all processes call `save` and `load` together.
    """

    def __init__(self, folder: Path, keep: int, world: Processes) -> None:
        self.folder, self.keep, self.world = folder, keep, world

    def folders(self) -> list[Path]:
        """Every checkpoint that was written to its end, oldest first, damaged since or not."""
        # one that is being replaced stands for the new one until that is there
        named = [path for start in (REPLACED, NAME) for path in self.folder.glob(f"{start}????????")]
        return [path for _, path in sorted({path.name[-8:]: path for path in named}.items())]

    def found(self) -> list[Path]:
        """Those whose files are there in their sizes, oldest first; `load` looks at what is in them."""
        return [path for path in self.folders() if _sizes_are_right(path)]

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
        """Write one: `tensors` as safetensors files, `state` once, `own` by every process. Returns its folder.

        Raises:
            OSError: it could not be written, by one process or another; older ones are as they were.
        """
        from safetensors.torch import save_file

        final, aside = self.folder / f"{NAME}{iteration:08d}", self.folder / f"{WRITING}{iteration:08d}"

        def prepare() -> None:
            for stale in self.folder.glob(f"{WRITING}*"):
                shutil.rmtree(stale)
            for former in self.folder.glob(f"{REPLACED}*"):
                newer = self.folder / f"{NAME}{former.name[-8:]}"
                shutil.rmtree(former) if newer.exists() else os.rename(former, newer)
            aside.mkdir(parents=True)

        def write_own() -> None:
            _write(aside / f"process-{self.world.rank}.pt", lambda path: torch.save(own, path))

        def write_shared() -> None:
            _write(aside / "state.pt", lambda path: torch.save(state, path))
            for name, values in tensors.items():
                contiguous = {key: value.detach().clone().contiguous() for key, value in values.items()}
                _write(aside / f"{name}.safetensors", lambda path, values=contiguous: save_file(values, path))

        def finish() -> None:
            sums = {path.name: _sum(path) for path in sorted(aside.iterdir())}
            _write(aside / MANIFEST, lambda path: path.write_text(json.dumps(sums)))
            _sync(aside)
            self._put(aside, final)

        try:
            self._together(prepare if self.world.first else None)
            self._together(write_own)
            self._together(write_shared if self.world.first else None)
            self._together(finish if self.world.first else None)
        except OSError:
            if self.world.first:
                shutil.rmtree(aside, ignore_errors=True)
            raise
        return final

    def load(self, path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any], dict[str, Any], bool]:
        """(tensors, state, own, exact): more processes than wrote it take the first's own, which is not exact.

        Raises:
            Damaged: naming the file; on all processes together.

        Warns where it was written without checksums.
        """
        from safetensors.torch import load_file

        def load_parts(file: Path) -> dict[str, Any]:
            # not where another process had them
            return torch.load(file, map_location="cpu", weights_only=True)

        trouble, mine = None, path / f"process-{self.world.rank}.pt"
        tensors, state, own = {}, {}, {}
        exact = mine.exists()
        try:
            if self.world.first:  # one reads all of it for all
                _check(path)
            tensors = {file.stem: _read(file, load_file) for file in path.glob("*.safetensors")}
            own = _read(mine if exact else path / "process-0.pt", load_parts)
            state = _read(path / "state.pt", load_parts)
        except Damaged as error:
            trouble = str(error)
        broken = self.world.told(trouble)
        if broken is not None:
            raise Damaged(f"{path}: {broken}")
        return tensors, state, own, exact

    def _together(self, work: Callable[[], None] | None) -> None:
        """Do this process's part, wait for the others; where it failed on one, OSError on all."""
        trouble = cause = None
        try:
            if work is not None:
                work()
        except Exception as error:
            trouble, cause = str(error) or type(error).__name__, error
        broken = self.world.told(trouble)
        if broken is not None:
            raise OSError(
                f"checkpoint: could not be written: {broken}; free space under {self.folder} or raise the limit on "
                f"file sizes, then resume; the latest whole checkpoint is {self.latest()}, nothing older was touched"
            ) from cause

    def _put(self, aside: Path, final: Path) -> None:
        """Give what was written aside its name, and let the oldest go."""
        former = self.folder / f"{REPLACED}{final.name[-8:]}"
        if final.exists():  # out of the way first: whoever is stopped here finds both
            os.rename(final, former)
        try:
            os.rename(aside, final)
        except OSError:
            if former.exists():
                os.rename(former, final)
            raise
        shutil.rmtree(former, ignore_errors=True)
        _sync(self.folder)
        # newer ones, of a run that was taken back to an earlier position, do not count
        older = [path for path in self.found() if path.name < final.name]
        for path in older[: max(0, len(older) - (self.keep - 1))]:
            shutil.rmtree(path)


def _sizes_are_right(path: Path) -> bool:
    try:
        return all((path / name).stat().st_size == size for name, (size, _) in _manifest(path).items())
    except (OSError, Damaged):
        return False


def _manifest(path: Path) -> dict[str, tuple[int, str | None]]:
    """(size, sha256) of each file; those of old checkpoints have no sum."""
    try:
        found = json.loads((path / MANIFEST).read_text())
        return {
            name: (about, None) if isinstance(about, int) else (about["bytes"], about["sha256"])
            for name, about in found.items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise Damaged(f"{MANIFEST}: cannot be read ({error})") from error


def _sum(file: Path) -> dict[str, Any]:
    with file.open("rb") as open_file:
        digest = hashlib.file_digest(open_file, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": digest}


def _check(path: Path) -> None:
    """Raise Damaged unless every file has the size and the sum that it was written with."""
    manifest = _manifest(path)
    if not manifest:
        raise Damaged(f"{MANIFEST}: names no file")
    for name, (size, digest) in manifest.items():
        try:
            found = _sum(path / name)
        except OSError as error:
            raise Damaged(f"{name}: cannot be read ({error})") from error
        if found["bytes"] != size:
            raise Damaged(f"{name}: got {found['bytes']} bytes, expected {size}")
        if digest is not None and found["sha256"] != digest:
            raise Damaged(f"{name}: got other bytes than were written, by their sha256")
    if any(digest is None for _, digest in manifest.values()):
        warnings.warn(
            f"{path}: written without checksums by an older version: damage that leaves the sizes would not be "
            "seen; the next checkpoint has them",
            stacklevel=2,
        )


def _read(file: Path, how: Callable[[Path], Any]) -> Any:
    try:
        return how(file)
    except Exception as error:  # whatever the bytes made of the reader
        raise Damaged(f"{file.name}: cannot be read ({type(error).__name__}: {error})") from error


def _write(path: Path, how: Callable[[Path], Any]) -> None:
    try:
        how(path)
        _sync(path)
    except Exception as error:  # torch and safetensors have errors of their own for a full disk
        raise OSError(f"{path.name}: {error}") from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
