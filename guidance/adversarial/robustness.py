"""Robust accuracy: how many images a defence still reads right under the worst of several attacks."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers import Addressed
from ...solvers.checked import checked
from ...solvers.kinds import check_kind, described
from ...solvers.notebook import Shown
from ...solvers.wanted import Samples
from .balls import Ball
from .defences import Defence, DefenceCost
from .evasion import Evasion
from .intervals import Proportion

FAMILY = 2**32  # streams of noise apart: the clean images, each attack, each judging


@dataclass(frozen=True, eq=False, repr=False)
class RobustAccuracy(Shown):
    """What `robust_accuracy` found. `print` it.

    Attributes:
        clean, robust: images read right as they are, and under the worst of all attacks, by the same draws.
        after: the same after each attack, those before it included.
        clean_share, robust_share: (B,) of the draws, that in which the image was read right; 0 or 1 without noise.
        images: (B, ...) the worst found of each.
        broken_by: (B,) the attack that brought it down, counted from 0; -1 where none did or none was needed.
        calls, vjps: of networks, over all images.
    """

    clean: Proportion
    robust: Proportion
    after: dict[str, Proportion]
    clean_share: Tensor
    robust_share: Tensor
    images: Tensor
    broken_by: Tensor
    calls: int
    vjps: int

    @property
    def mean_share(self) -> Proportion:
        """The mean of `robust_share`: what a single draw reads right, as purification is often reported."""
        return Proportion(float(self.robust_share.sum()), len(self.robust_share))

    def __str__(self) -> str:
        rows = {
            "clean": self.clean,
            **{f"after {k}": v for k, v in self.after.items()},
            "robust": self.robust,
        }
        wide = max(len(name) for name in rows)
        lines = [f"{name:{wide}s}  {found}" for name, found in rows.items()]
        count = max(self.clean.trials, 1)
        cost = f"{self.calls / count:.0f} network calls and {self.vjps / count:.0f} VJPs an image"
        return "\n".join([*lines, cost])


@checked
def robust_accuracy(
    defence: Defence,
    images: Samples,
    labels: Tensor,
    ball: Ball,
    attacks: Mapping[str, Evasion],
    *,
    box: tuple[float, float] | None = None,
    draws: int = 1,
    quorum: float = 0.5,
    noise: Addressed = Addressed(0),
    progress: bool = False,
) -> RobustAccuracy:
    """Attack after attack; of every image the worst that any found.

    An image is read right where more than `quorum` of `draws` draws of the defence's noise read it so. Without noise
    each attack takes the images that are still read right. With it each takes all of them, and of what they find the
    worst is chosen on draws of its own. Both the images and the worst of them are then judged on one set of draws that
    nobody has seen, so that each figure is an unbiased one of its images: the least of several noisy shares would
    flatter the attacks, and images that a draw happened to misread, left in peace, the defence. For the same reason
    the image as it was is no candidate: an attack is taken at its word.

    Args:
        images, labels: (B, ...) and (B,) whole numbers.
        attacks: by name. An ensemble in the manner of AutoAttack:
            {"ce": Evasion(CrossEntropy()), "dlr": Evasion(DLR()), "targeted": Evasion(TargetedDLR(1))}
        draws: for a random defence; an odd number has no ties. One makes `clean` and `robust` those of a single draw.

    Returns:
        RobustAccuracy, with intervals: `result.robust.wilson()`, `.clopper_pearson()`. They are of the images; what
        better attacks would find they do not know.

    Raises:
        ValueError: labels that are not whole numbers (B,) below the number of classes, draws below 1, a quorum outside
            [0, 1). TypeError: a defence whose cost() is no DefenceCost.
        FloatingPointError: logits that are not finite.

    A sample's verdict never depends on its batch mates. Source: Croce and Hein 2020, arXiv 2003.01690, section 6.
    Cost: what it returns as `calls` and `vjps`.
    """
    if not isinstance(attacks, Mapping) or not all(isinstance(each, Evasion) for each in attacks.values()):
        raise TypeError(
            f"attacks: got {described(attacks)}, expected Evasions by name; write {{'ce': Evasion(CrossEntropy())}}"
        )
    if labels.shape != images.shape[:1] or labels.dtype.is_floating_point or draws < 1 or not 0 <= quorum < 1:
        raise ValueError(
            f"robust_accuracy: got labels {tuple(labels.shape)} of {labels.dtype}, draws={draws}, quorum={quorum}, "
            f"expected ({len(images)},) whole numbers, draws >= 1, 0 <= quorum < 1"
        )
    check_kind(
        f"{type(defence).__name__}.cost",
        defence.cost(),
        DefenceCost,
        "a DefenceCost; return DefenceCost(1, 1, 1)",
    )
    judge = _Judge(defence, labels, noise, draws if defence.random else 1)
    everyone = torch.arange(len(images), device=images.device)
    logits, clean = judge(images, everyone, 0)
    if defence.random and attacks:  # an aim may know these logits: they are not of the draws that judge
        logits = judge(images, everyone, 2 * len(attacks) + 1)[0]
    share, worst, broken_by = clean, images.clone(), torch.full_like(everyone, -1)
    least = torch.full_like(clean, torch.inf) if defence.random else clean  # by the draws that choose
    calls = vjps = 0
    after = {}
    for index, (name, attack) in enumerate(attacks.items()):
        left = everyone if defence.random else (share > 0).nonzero().flatten()
        if len(left):
            found = attack.run(
                defence, images[left], labels[left], logits[left], ball,
                box=box, noise=judge.noise_of(left, 2 * index + 1), progress=progress,
            )  # fmt: skip
            calls, vjps = calls + found.calls, vjps + found.vjps
            seen = judge(found.images, left, 2 * index + 2)[1]
            lower = seen < least[left]
            which, seen, before = left[lower], seen[lower], share
            worst[which], least = found.images[lower], least.index_put((which,), seen)
            judged = judge(worst[which], which, 0)[1] if defence.random and len(which) else seen
            share = share.index_put((which,), judged)
            broken_by[(before > quorum) & (share <= quorum)] = index
            broken_by[share > quorum] = -1
        after[name] = Proportion(int((share > quorum).sum()), len(images))
    return RobustAccuracy(
        clean=Proportion(int((clean > quorum).sum()), len(images)),
        robust=Proportion(int((share > quorum).sum()), len(images)),
        after=after,
        clean_share=clean,
        robust_share=share,
        images=worst,
        broken_by=broken_by,
        calls=calls + judge.calls,
        vjps=vjps,
    )


class _Judge:
    """Reads images under draws that nobody else has seen, and counts the calls."""

    def __init__(self, defence: Defence, labels: Tensor, noise: Addressed, draws: int) -> None:
        self.defence, self.labels, self.noise, self.draws = defence, labels, noise, draws
        self.calls = 0

    def __call__(self, images: Tensor, which: Tensor, family: int) -> tuple[Tensor, Tensor]:
        """Mean logits (B, classes) of the samples `which`, and the share (B,) of draws in which they are read right."""
        total, right = None, torch.zeros(len(which), device=images.device)
        for draw in range(self.draws):
            with torch.no_grad():
                logits = self.defence.logits(images, self.noise_of(which, family, draw))
            if not bool(logits.isfinite().all()):
                raise FloatingPointError(
                    "robust_accuracy: got logits that are not finite, expected finite ones; mend the classifier or "
                    "leave these images out"
                )
            low, high = int(self.labels.min()), int(self.labels.max())
            if low < 0 or high >= logits.shape[1]:
                raise ValueError(
                    f"robust_accuracy: got labels from {low} to {high}, expected 0 to {logits.shape[1] - 1}, the "
                    f"{logits.shape[1]} classes of the logits; count classes from 0"
                )
            total = logits if total is None else total + logits
            right = right + (logits.argmax(1) == self.labels[which])
        self.calls += self.draws * self.defence.cost().calls * len(which)
        assert total is not None
        return total / self.draws, right / self.draws

    def noise_of(self, which: Tensor, family: int, draw: int = 0) -> Addressed:
        """The noise of the samples `which`, by their own ids."""
        old = self.noise
        ids = which.tolist() if old.samples is None else [old.samples[k] for k in which.tolist()]
        return Addressed(old.seed, ids, old.stream + family * FAMILY + draw, old.on_cpu)
