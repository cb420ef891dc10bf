"""check: which prediction and which time scale a network has, tried on real data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .kinds import check_kind
from .labels import LogNoiseLevel, NoiseLevel, OwnTime, Scaled, WholeLabels
from .model import Denoiser
from .network_faults import network_faults
from .noise import Addressed
from .prediction import PREDICTIONS, Prediction
from .process import Process, as_time

LEVELS = 8  # noise levels, evenly in lambda
FITS = 0.9  # a prediction fits that beats the best constant by a tenth
CLOSE = 1.1  # and two within a tenth of each other cannot be told apart
Labelling = Callable[[Tensor, Process], Tensor]


@dataclass(frozen=True)
class Trial:
    """One prediction on one time scale.

    Attributes:
        loss: E |out - prediction|^2 over that of the best constant, averaged over noise levels: 0 is perfect, 1 says
            nothing about the data, more is worse than nothing.
        declared: whether it is what the denoiser declares.
    """

    prediction: Prediction
    label: Labelling
    loss: float
    declared: bool

    def __str__(self) -> str:
        mark = "  <- declared" if self.declared else ""
        return f"{self.prediction.name:6s} {self.label!s:42s} {self.loss:9.3f}{mark}"


@dataclass(frozen=True)
class Checked:
    """What `check` found. Print it.

    Attributes:
        trials: best first.
        fitting: those that fit, indistinguishable from the best; none where nothing fits.
        faults: what else is wrong with the network, in words.
    """

    trials: tuple[Trial, ...]
    faults: tuple[str, ...] = ()

    @property
    def fitting(self) -> tuple[Trial, ...]:
        best = self.trials[0].loss
        return tuple(trial for trial in self.trials if trial.loss <= min(FITS, CLOSE * best))

    @property
    def right(self) -> bool:
        """Whether the declared prediction and label are among those that fit, and the network has no fault."""
        return any(trial.declared for trial in self.fitting) and not self.faults

    @property
    def verdict(self) -> str:
        """The finding in a sentence."""
        found = self.fitting
        if not found:
            return (
                f"none fits: the best, {self.trials[0].prediction.name} at {self.trials[0].label}, is no better than a "
                f"constant to within {1 - FITS:.0%}; check the process, the scale of x0, the conditioning and the "
                "weights"
            )
        if any(trial.declared for trial in found):
            return "what is declared fits"
        best = found[0]
        label = "" if isinstance(best.label, OwnTime) else f", label={best.label}"
        return f"what is declared does not fit; write Denoiser(..., {best.prediction.name}{label})"

    def __str__(self) -> str:
        """What fits, what is declared, and the best time scale of every prediction."""
        best = {trial.prediction.name: trial for trial in reversed(self.trials)}
        shown = [t for t in self.trials if t.declared or t in self.fitting or best[t.prediction.name] is t]
        lines = [f"{'':6s} {'what the network is told of t':42s} {'loss':>9s}", *map(str, shown)]
        return "\n".join([*lines, self.verdict, *self.faults])


def check(denoiser: Denoiser, x0: Tensor, cond: Any = None, seed: int = 0) -> Checked:
    """Try every prediction on every time scale: which does the network make on noised data?

    At `LEVELS` levels x_t = alpha x0 + sigma eps goes through the network with t as it is, scaled to [0, 1], 0 .. 999
    and 0 .. 1000, and as sigma/alpha and its logarithm; the output is compared with eps, x0, v, the velocity and the
    score. Where a network takes whole labels only, they are rounded.

    Args:
        x0: (B, ...) real data as the network was trained on: the more samples, the surer. 16 will do.
        cond: as for `sample`.
        seed: of the noise.

    Returns:
        Checked: a table, a verdict, and faults of the network that would spoil samples or gradients: one that is not
        the same twice, mixes its batch, or hides a part from autograd.

    Cost: about 60 network calls and one VJP.
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
    times, noise = _levels(denoiser.process), Addressed(seed)
    eps = [noise(k, x0) for k in range(len(times))]
    trials = []
    with torch.no_grad():
        for label, declared in _labels(denoiser):
            outputs = _outputs(denoiser, label, x0, times, eps, cond)
            if outputs is None:
                continue
            for prediction in PREDICTIONS:
                loss = _loss(outputs, prediction, denoiser.process, x0, times, eps)
                mine = declared and prediction == denoiser.prediction
                trials.append(Trial(prediction, label, loss, mine))
    if not trials:
        raise ValueError(
            "check: got a network that failed at every time scale, expected one that can be called; call "
            "denoiser(x0, t, cond) to see why"
        )
    faults = network_faults(denoiser, x0, float(times[len(times) // 2]), eps[0], cond)
    return Checked(tuple(sorted(trials, key=lambda trial: (trial.loss, not trial.declared))), faults)


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
    scales = [
        OwnTime(),
        *(Scaled(top / width) for top in (1.0, 999.0, 1000.0) if top != width),
        NoiseLevel(),
        LogNoiseLevel(),
        LogNoiseLevel(0.25),
    ]
    return [(own, True), *((label, False) for label in scales if label != own)]


def _outputs(
    denoiser: Denoiser, label: Labelling, x0: Tensor, times: Tensor, eps: list[Tensor], cond: Any
) -> list[Tensor] | None:
    """The network's raw outputs at all levels, or None where it cannot be called so."""
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
        except Exception:  # whatever a network makes of times that it was never meant to get
            continue
    return None


def _noised(x0: Tensor, eps: Tensor, process: Process, t: Tensor) -> Tensor:
    return process.alpha(t).to(x0) * x0 + process.sigma(t).to(x0) * eps


def _loss(
    outputs: list[Tensor],
    prediction: Prediction,
    process: Process,
    x0: Tensor,
    times: Tensor,
    eps: list[Tensor],
) -> float:
    """E |out - (A x0 + B eps)|^2 / (A^2 Var[x0] + B^2), the mean over levels."""
    spread = float((x0 - x0.mean(0)).double().square().mean()) * len(x0) / (len(x0) - 1)
    losses = []
    for out, t, e in zip(outputs, times, eps, strict=True):
        a, b = (float(c) for c in prediction.row(process, as_time(t)))
        losses.append(float((out - a * x0 - b * e).double().square().mean()) / (a * a * spread + b * b))
    mean = sum(losses) / len(losses)
    return mean if mean == mean else float("inf")
