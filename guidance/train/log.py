"""What a run writes down: log.jsonl, TensorBoard events, a bar."""

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any

from torch import Tensor

from ...solvers.kinds import check_kind
from ...solvers.progress import progress_bar


class Log:
    """Figures by iteration. Only the first process makes one.

    Args:
        folder: of log.jsonl and the event files.
        done, assessed: the iterations and the last evaluation that the checkpoint at hand knows of: later records,
            of a run that died, are dropped.
        total: iterations in all, for the bar.
        tensorboard, progress: whether to write event files, to show a bar.

    Raises:
        ImportError: tensorboard is asked for and missing.
    """

    def __init__(
        self, folder: Path, done: int, assessed: int, total: int, tensorboard: bool, progress: bool
    ) -> None:
        self.path = folder / "log.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self._trim({"train": done, "evaluation": assessed})
        self.file = self.path.open("a")
        self.events: Any = _writer(folder, done) if tensorboard else None
        self.bar = progress_bar(initial=done, total=total, disable=not progress, unit="iteration")

    def _trim(self, known: dict[str, int]) -> None:
        kept = [line for line in _records(self.path) if line["iteration"] <= known[line["kind"]]]
        aside = self.path.with_suffix(".writing")
        aside.write_text("".join(json.dumps(line) + "\n" for line in kept))
        os.replace(aside, self.path)

    def write(self, iteration: int, kind: str, figures: dict[str, Any]) -> None:
        """One record: {"iteration", "kind", figures}; what is not a finite number becomes null.

        Raises:
            OSError: it could not be written.
        """
        clean = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in figures.items()
        }
        try:
            self.file.write(json.dumps({"iteration": iteration, "kind": kind, **clean}) + "\n")
            self.file.flush()
        except OSError as error:
            raise OSError(
                f"{self.path}: could not be written ({error}); free space there or raise the limit on file sizes, "
                "then resume from the latest checkpoint"
            ) from error
        if self.events is not None:
            for key, value in clean.items():
                if isinstance(value, int | float):
                    self.events.add_scalar(f"{kind}/{key}", value, iteration)
            self.events.flush()

    def pictures(self, iteration: int, x: Tensor, value_range: tuple[float, float]) -> None:
        """A grid of the samples x (B, H, W) or (B, C, H, W) with C = 1 or 3; others are passed over."""
        x = x[:, None] if x.ndim == 3 else x
        if self.events is not None and x.ndim == 4 and x.shape[1] in (1, 3):
            low, high = value_range
            self.events.add_images(
                "samples", ((x[:64] - low) / (high - low)).clamp(0, 1).float().cpu(), iteration
            )

    def advance(self, **shown: float) -> None:
        """One iteration more on the bar."""
        self.bar.set_postfix({key: f"{value:.4g}" for key, value in shown.items()}, refresh=False)
        self.bar.update()

    def close(self) -> None:
        """Close the files and the bar."""
        with contextlib.suppress(OSError):  # of a line that could not be written: `write` has said so
            self.file.close()
        self.bar.close()
        if self.events is not None:
            self.events.close()


def read_log(path: Path | str) -> list[dict[str, Any]]:
    """The records of a log.jsonl, or of the one in a folder; a last line that was cut short is left out.

    Raises:
        FileNotFoundError: nothing is there. TypeError: no path.
    """
    check_kind("path", path, (str, os.PathLike), "a path to a log.jsonl or its folder; pass config.out")
    path = Path(path)
    file = path / "log.jsonl" if path.is_dir() else path
    if not file.exists():
        raise FileNotFoundError(
            f"path: got {file}, where nothing is, expected a log.jsonl or its folder; pass the `out` of the run's "
            "TrainConfig"
        )
    return _records(file)


def _records(path: Path) -> list[dict[str, Any]]:
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def _writer(folder: Path, done: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "tensorboard: got none, expected it for event files; pip install 'pullback[train]' or set "
            "tensorboard=False"
        ) from error
    return SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1 if done else None)
