"""The table of distances by which morphs are judged."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...solvers.checked import CheckedFields, checked
from ...solvers.notebook import Shown
from ...solvers.wanted import Reals
from .recogniser import Recogniser


@dataclass(frozen=True, eq=False, repr=False)
class MorphScores(Shown, CheckedFields):
    """Distances (M, S, P, R) of morph m to probe p of its subject s by recogniser r, and the thresholds (R,).

    S is 2 for a morph of two people; a probe is another image of the subject, an attempt at the gate. NaN is a
    comparison that did not take place: a failed acquisition, or a probe that a subject does not have. It never
    matches; `failures_as_non_matches` says what else it counts for.
    """

    distances: Reals
    thresholds: Reals

    def __post_init__(self) -> None:
        shape = tuple(self.distances.shape)
        if len(shape) != 4 or 0 in shape or tuple(self.thresholds.shape) != shape[3:]:
            raise ValueError(
                f"MorphScores: got distances {shape} and thresholds {tuple(self.thresholds.shape)}, expected (morphs, "
                "subjects, probes, recognisers), none of them 0, and (recognisers,)"
            )
        if self.distances.device != self.thresholds.device:
            raise ValueError(
                f"MorphScores: got distances on {self.distances.device} and thresholds on {self.thresholds.device}, "
                "expected one device; move the thresholds with .to(...)"
            )
        if bool(self.thresholds.isnan().any()):
            raise ValueError(
                "MorphScores: got a threshold of NaN, expected distances; calibrate each recogniser"
            )

    @property
    def matches(self) -> Tensor:
        """(M, S, P, R), whether the distance is under the threshold."""
        return self.distances < self.thresholds

    @property
    def took_place(self) -> Tensor:
        """(M, S, P, R)."""
        return ~self.distances.isnan()

    def take(self, morphs: Tensor) -> "MorphScores":
        """The table of these morphs alone: what `bootstrap` draws."""
        return replace(self, distances=self.distances[morphs])

    def failures_as_non_matches(self) -> "MorphScores":
        """Every NaN becomes an attempt that did not match (an infinite distance). The match rates leave NaN out, as
        ISO/IEC 19795-1 has it for FMR and FNMR; with this they become accept rates, which count every attempt. Not for
        tables with NaN for probes that do not exist.
        """
        return replace(self, distances=self.distances.nan_to_num(nan=torch.inf, posinf=torch.inf))

    @classmethod
    @checked
    def compare(cls, recognisers: Sequence[Recogniser], morphs: Tensor, probes: Tensor) -> "MorphScores":
        """The table of morphs (M, ...) with their subjects' probes (M, S, P, ...).

        A probe with NaN in it is none. Cost: M (1 + S P) descriptors by each recogniser, without a graph.

        Raises:
            ValueError: shapes that do not belong together; a recogniser without a threshold.
        """
        if (
            probes.ndim != morphs.ndim + 2
            or len(probes) != len(morphs)
            or probes.shape[3:] != morphs.shape[1:]
        ):
            raise ValueError(
                f"probes: got {tuple(probes.shape)} for morphs {tuple(morphs.shape)}, expected (morphs, subjects, "
                "probes) and then an image's shape"
            )
        thresholds = [each.threshold for each in recognisers]
        if not thresholds or None in thresholds:
            raise ValueError(
                f"recognisers: got thresholds {thresholds}, expected at least one recogniser, each with a threshold; "
                "calibrate with threshold_at and with_threshold"
            )
        with torch.no_grad():
            columns = [_distances(each, morphs.detach(), probes.detach()) for each in recognisers]
        table = torch.stack([column.double() for column in columns], dim=-1)
        return cls(table, torch.tensor(thresholds, dtype=table.dtype, device=table.device))


def _distances(recogniser: Recogniser, morphs: Tensor, probes: Tensor) -> Tensor:
    """(M, S, P) by one recogniser."""
    images = probes.flatten(0, 2)
    there = ~images.flatten(1).isnan().any(1)
    enrolled = recogniser.describe(morphs)
    live = enrolled.new_full((len(images), enrolled.shape[1]), torch.nan)
    if bool(there.any()):
        live[there] = recogniser.describe(images[there])
    return recogniser.distance(enrolled[:, None, None], live.unflatten(0, probes.shape[:3]))
