"""check: which prediction and which time scale a network has, tried on real data."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..kinds import check_kind
from ..labels import LogNoiseLevel, NoiseLevel, OwnTime, Scaled, WholeLabels
from ..model import Denoiser
from ..noise import Addressed
from ..notebook import Shown
from ..prediction import FLOW, PREDICTIONS, Prediction
from ..process import Process, as_time
from .network_faults import network_faults

MANY = 32  # samples for a doubt: of smooth images 16 differ too little from one another
FEWEST = 8  # samples for a verdict: of 4 the best trial was the wrong one for every third seed
LEVELS = 8  # noise levels, evenly in lambda
SAME = 1.001  # scores that differ by a thousandth are no difference
LEARNED = 0.01  # a network trained for a prediction on this process has an excess of a twentieth of this
FITS = 0.9  # a prediction fits that beats the best constant by a tenth
CLOSE = (
    0.02  # two cannot be told apart within this share of the loss, or 3 standard errors of their difference
)
Labelling = Callable[[Tensor, Process], Tensor]


@dataclass(frozen=True, eq=False, repr=False)
class Trial(Shown):
    """One prediction on one time scale.

    Attributes:
        declared: whether it is what the denoiser declares.
        losses: |out - prediction|^2 of each sample over that of the best constant, averaged over noise levels, (B,).
        excess: by how much less their mean would be for the best a x + b out in the place of out. A network trained
            for a prediction has learned these to be 0 and 1; for any other prediction, being a x + b out itself (the
            conversion), they are not.
    """

    prediction: Prediction
    label: Labelling
    declared: bool
    losses: Tensor
    excess: float

    @property
    def loss(self) -> float:
        """0 is perfect, 1 says nothing about the data, more is worse than nothing."""
        return float(self.losses.mean())

    @property
    def score(self) -> float:
        """What trials are ranked by: the excess, which the data's own noise hardly touches, counts five times."""
        return self.loss + 5 * self.excess

    def near(self, best: "Trial") -> bool:
        """Whether the best is not better beyond doubt: in excess, and in loss by 2 % and 3 standard errors (of the
        difference, the samples being the same).
        """
        gap = self.losses - best.losses
        doubt = max(0.02 * best.loss, 3 * float(gap.std()) / len(gap) ** 0.5)
        return self.excess <= best.excess + 0.02 and float(gap.mean()) <= doubt

    def __str__(self) -> str:
        mark = "  <- declared" if self.declared else ""
        loss, excess = (f"{v:9.3f}" if v < 1e4 else f"{v:9.1e}" for v in (self.loss, self.excess))
        return f"{self.prediction.name:6s} {self.label!s:42s} {loss} {excess}{mark}"


@dataclass(frozen=True)
class Checked:
    """What `check` found. Print it.

    Attributes:
        trials: best first.
        faults: what else is wrong with the network, in words.
        numbers: how many x0 has, samples and entries together.
    """

    trials: tuple[Trial, ...]
    faults: tuple[str, ...] = ()
    numbers: int = 0

    @property
    def samples(self) -> int:
        """Of how many samples of data the losses are."""
        return len(self.trials[0].losses)

    @property
    def fitting(self) -> tuple[Trial, ...]:
        """Those that beat the best constant by a tenth and that the best does not beat beyond doubt."""
        return tuple(trial for trial in self.trials if trial.loss <= FITS and trial.near(self.trials[0]))

    @property
    def right(self) -> bool:
        """Whether the declared prediction and label are among those that fit, and the network has no fault; never
        where the samples are too few to tell.
        """
        return self.samples >= FEWEST and any(trial.declared for trial in self.fitting) and not self.faults

    @property
    def verdict(self) -> str:
        """The finding in a sentence."""
        if self.samples < FEWEST:
            return (
                f"inconclusive: got {self.samples} samples, expected at least {FEWEST}: with fewer, chance decides "
                "which trial comes first; pass more of x0"
            )
        found = self.fitting
        if not found:
            return (
                f"none fits: the best, {self.trials[0].prediction.name} at {self.trials[0].label}, is no better than a "
                f"constant to within {1 - FITS:.0%}; check the process, the scale of x0, the conditioning and the "
                "weights"
            )
        if any(trial.declared for trial in found):
            return (
                "what is declared fits, but the network has a fault:"
                if self.faults
                else "what is declared fits"
            )
        best = found[0]
        label = "" if isinstance(best.label, OwnTime) else f", label={best.label}"
        return f"what is declared does not fit; write Denoiser(..., {best.prediction.name}{label})"

    @property
    def doubts(self) -> tuple[str, ...]:
        """What else may be wrong though the declared prediction and label fit, in words: the levels of noise."""
        chance = 10 / self.numbers if self.numbers else math.inf  # two numbers are fitted to each level's
        if self.samples < MANY:
            return ()
        declared = [t for t in self.fitting if t.declared and t.excess > LEARNED + chance * t.loss]
        return tuple(
            f"doubt: an excess of {trial.excess:.3f}, where a network trained on these noise levels comes to 0.000: is "
            "it this table of alpha and sigma that it was trained on, and x0 in the range of its data?"
            for trial in declared
        )

    def __str__(self) -> str:
        """What fits, what is declared, and the best time scale of every prediction."""
        best = {trial.prediction.name: trial for trial in reversed(self.trials)}
        shown = [t for t in self.trials if t.declared or t in self.fitting or best[t.prediction.name] is t]
        lines = [
            f"{'':6s} {'what the network is told of t':42s} {'loss':>9s} {'excess':>9s}",
            *map(str, shown),
        ]
        return "\n".join([*lines, self.verdict, *self.faults, *self.doubts])


def check(denoiser: Denoiser, x0: Tensor, cond: Any = None, seed: int = 0) -> Checked:
    """Try every prediction on every time scale: which does the network make on noised data?

    At `LEVELS` levels x_t = alpha x0 + sigma eps goes through the network with t as it is, scaled to [0, 1], 0 .. 999
    and 0 .. 1000, counted from the noise where it is in [0, 1], and as sigma/alpha and its logarithm; the output is
    compared with eps, x0, v, the score, the velocity and, of a clock that runs to the data, its negative. Where a
    network takes whole labels only, they are rounded.

    Args:
        x0: (B, ...) real data as the network was trained on: the more samples, the surer. 16 will do; of fewer than 8
            the table is shown and the verdict is that it is inconclusive.
        cond: as for `sample`.
        seed: of the noise.

    Returns:
        Checked: a table, a verdict, and faults of the network that would spoil samples or gradients: one that is not
        the same twice, mixes its batch, or hides a part from autograd. What it cannot tell: a table of noise that is
        nearly the one of training, of which an excess above 0.01 is the only trace (`Checked.doubts`, from 32 samples
        on), and labels that are off by one.

    Cost: about 70 network calls and one VJP.
    """
    check_kind(
        "denoiser", denoiser, Denoiser, "a Denoiser; wrap the network: Denoiser(network, process, prediction)"
    )
    check_kind("x0", x0, Tensor, "a tensor (B, ...) of data; torch.stack(images) makes one")
    if x0.ndim < 2 or len(x0) < 2 or not x0.is_floating_point():
        raise ValueError(
            f"x0: got shape {tuple(x0.shape)} of {x0.dtype}, expected floating point data (B, ...) of at least two "
            "samples; scale images to the range that the network was trained on"
        )
    x0 = x0.detach()
    if bool((x0 == x0[:1]).all()):
        raise ValueError(
            f"x0: got {len(x0)} samples that are all the same, expected data that vary: losses are told in their "
            "variance; pass different ones"
        )
    times, noise = _levels(denoiser.process), Addressed(seed)
    eps = [noise(k, x0) for k in range(len(times))]
    trials: list[Trial] = []
    why = None
    with torch.no_grad():
        for label, declared in _labels(denoiser):
            outputs = _outputs(denoiser, label, x0, times, eps, cond)
            if isinstance(outputs, Exception):
                why = why or outputs
                continue
            for prediction in (*PREDICTIONS, -FLOW):
                losses, excess = _losses(outputs, prediction, denoiser.process, x0, times, eps)
                trials.append(
                    Trial(prediction, label, declared and prediction == denoiser.prediction, losses, excess)
                )
    if not trials:
        raise ValueError(
            f"check: got a network that failed at every time scale ({why}), expected one that can be called; mend that "
            "first"
        ) from why
    faults = network_faults(denoiser, x0, float(times[len(times) // 2]), eps[0], cond)
    # what the noise alone would order stays as declared, or as listed: labels to 999 and to 1000 are such a pair
    least = SAME * min(trial.score for trial in trials)
    return Checked(
        tuple(sorted(trials, key=lambda trial: (max(trial.score, least), not trial.declared))),
        faults,
        x0.numel(),
    )


def _levels(process: Process) -> Tensor:
    """Times evenly in lambda over the part of the process where both data and noise are to be seen."""
    ends = process.lam(torch.tensor([process.t_max, process.t_min], dtype=torch.float64))
    low, high = ends.clamp(-3.0, 3.0).tolist()
    part = (torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS
    times = process.time(low + (high - low) * part)
    whole = process.t_min == -1.0 and process.t_max >= 10  # a table of steps: at its own
    return times.round().clamp(min=0) if whole else times


def _labels(denoiser: Denoiser) -> list[tuple[Labelling, bool]]:
    """(label, whether declared) to try."""
    process, own = denoiser.process, denoiser.label or OwnTime()
    width = process.t_max - max(process.t_min, 0.0)  # of a table too: its clean end -1 was never trained on
    from_noise = [Scaled(-1.0, offset=1.0)] if (process.t_min, process.t_max) == (0.0, 1.0) else []
    scales = [
        OwnTime(),
        *from_noise,
        *(Scaled(top / width) for top in (1.0, 999.0, 1000.0) if top != width),
        NoiseLevel(),
        LogNoiseLevel(),
        LogNoiseLevel(0.25),
    ]
    return [(own, True), *((label, False) for label in scales if label != own)]


def _outputs(
    denoiser: Denoiser, label: Labelling, x0: Tensor, times: Tensor, eps: list[Tensor], cond: Any
) -> list[Tensor] | Exception:
    """The network's outputs at all levels, or what it raised."""
    raised = None
    for told in (label, WholeLabels(label)):
        tried = Denoiser(
            denoiser.network,
            denoiser.process,
            denoiser.prediction,
            denoiser.dtype,
            call=denoiser.call,
            label=told,
        )
        try:
            return [
                tried(_noised(x0, e, denoiser.process, t), t.to(x0).expand(len(x0)), cond)
                for t, e in zip(times, eps, strict=True)
            ]
        except Exception as error:  # whatever a network makes of times that it was never meant to get
            raised = raised or error
    assert raised is not None
    return raised


def _noised(x0: Tensor, eps: Tensor, process: Process, t: Tensor) -> Tensor:
    return process.alpha(t).to(x0) * x0 + process.sigma(t).to(x0) * eps


def _losses(
    outputs: list[Tensor],
    prediction: Prediction,
    process: Process,
    x0: Tensor,
    times: Tensor,
    eps: list[Tensor],
) -> tuple[Tensor, float]:
    """(B,) |out - (A x0 + B eps)|^2 over A^2 Var[x0] + B^2, the mean over levels; and by how much less its mean would
    be for the best a x + b out in the place of out.
    """
    spread = float((x0 - x0.mean(0)).double().square().mean()) * len(x0) / (len(x0) - 1)
    losses, excess = [], 0.0
    for out, t, e in zip(outputs, times, eps, strict=True):
        a, b = (float(c) for c in prediction.row(process, as_time(t)))
        size, missed = a * a * spread + b * b, (out - a * x0 - b * e).double()
        losses.append(missed.square().flatten(1).mean(1) / size)
        pair = torch.stack([_noised(x0, e, process, t).double().flatten(), out.double().flatten()], 1)
        gram = torch.linalg.pinv(pair.mT @ pair, hermitian=True)
        mended = gram @ (pair.mT @ missed.flatten())  # what of the miss is a x + b out
        excess += float((pair @ mended).square().mean()) / size / len(times)
    return torch.stack(losses).mean(0).nan_to_num(nan=torch.inf), excess
