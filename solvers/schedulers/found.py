"""SchedulerPlan: what was found of a scheduler, and how to run it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..calling import Calling, FirstChannels, Positional
from ..model import Denoiser
from ..plan import Plan
from ..prediction import Prediction
from ..process import Process
from .clocks import TableLabels
from .learned import HalfCall, widened
from .scaled_call import ScaledCall, Scales


@dataclass(frozen=True)
class SchedulerPlan:
    """A scheduler's loop: what it steps, what the network is told, and the plan.

        found = plan_from_scheduler(pipe.scheduler, 20)
        x0 = sample(found.denoiser(pipe.unet), found.plan, noise * found.scale, cond=...)

    Attributes:
        plan: one step for each turn of the pipeline's loop; "x" at its start is the pipeline's `latents`.
        prediction, label: as `Denoiser` takes them.
        scale: of the starting noise (`init_noise_sigma`).
        scales: how inputs and outputs of the network are scaled (`scale_model_input`); None where they are not.
        calling: of networks with learned variances: how their two halves are taken. Where DDPM uses them, the state has
            twice the channels: `start` and `end` go between the two.
    """

    plan: Plan
    prediction: Prediction
    label: TableLabels
    scale: float
    scales: Scales | None = None
    calling: type[FirstChannels] | type[HalfCall] | None = None

    @property
    def process(self) -> Process:
        """alpha and sigma of the states."""
        return self.plan.process

    def denoiser(
        self, network: Callable[..., Any], *, call: Calling = Positional(), dtype: torch.dtype | None = None
    ) -> Denoiser:
        """The network as the scheduler's pipeline calls it; arguments as of `Denoiser`."""
        call = call if self.calling is None else self.calling(call)
        if self.scales is None:
            return Denoiser(network, self.process, self.prediction, dtype, call=call, label=self.label)
        scaled = ScaledCall(self.scales, self.process, self.label, call)
        return Denoiser(network, self.process, self.prediction, dtype, call=scaled)

    def start(self, noise: Tensor) -> Tensor:
        """Where the plan starts from, of unit noise (B, C, ...); of 2 C channels where the variance is learned."""
        x = noise * self.scale
        return widened(x) if self.calling is HalfCall else x

    def end(self, x: Tensor) -> Tensor:
        """The sample (B, C, ...) of what the plan ends with."""
        return x[:, : x.shape[1] // 2] if self.calling is HalfCall else x
