"""One turn of a pipeline's loop as a network, and how it is called."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..broadcast import per_sample
from ..labels import Label
from ..modules_behind import Declaring
from ..process import Process
from ..schedulers import SchedulerPlan
from ..schedulers.scaled_call import UnitInput
from .compiled import INDEX, LABEL, PipelineCode
from .row_scales import computing
from .source import LoopSource
from .variables import LoopVariables


class PipelineTurn(Declaring):
    """(x, label, index, cond, c_in) -> what the pipeline hands to `scheduler.step` in the turn of that number:
    guidance, rescaling, added conditions, ControlNets and signs are its own code.
    """

    def __init__(self, loops: LoopVariables) -> None:
        self.loops = loops

    def networks(self) -> list[nn.Module]:
        found = (getattr(self.loops.pipe, name, None) for name in sorted(self.code.source.parts))
        return [each for each in found if isinstance(each, nn.Module)]

    @property
    def code(self) -> PipelineCode:
        """The parts of the pipeline."""
        return self.loops.code

    def __call__(self, x: Tensor, label: Tensor, index: int, cond: Any, c_in: Tensor | None = None) -> Tensor:
        loop, variables = self.loops.of(cond, len(x), turning=True)
        own = loop.state
        if x.shape != own.shape:
            raise ValueError(
                f"x: got {tuple(x.shape)}, expected {tuple(own.shape)}, the latents of {self.code.source.name} with "
                "these arguments; pass height= and width= to from_diffusers"
            )
        state = x.to(own.dtype)
        if loop.doubled > 1:
            state = state.repeat(loop.doubled, *[1] * (x.ndim - 1))
        label = label.to(loop.labels) if loop.labels.is_floating_point() else label.round().to(loop.labels)
        given = {self.code.source.state: state, LABEL: label, INDEX: index}
        given["self"] = loop.turned(variables["self"], index, partial(_scaled, c_in))
        with computing({**vars(variables["self"]), **variables}):
            out = self.code.played(self.code.turn, variables, **given)
        if isinstance(out, list):  # one prediction a sample
            out = torch.stack(out)
        if out.shape != state.shape and out.shape[:1] + out.shape[2:] != state.shape[:1] + state.shape[2:]:
            raise ValueError(
                f"{self.code.source.name}: got a prediction {tuple(out.shape)} of latents {tuple(state.shape)}, "
                "expected their shape: it steps them in another; wrap its network by plan_from_scheduler"
            )
        return out[: len(x)]


@dataclass(frozen=True, eq=False)
class TurnCall(Declaring):
    """Calls a `PipelineTurn` with the scheduler's label and scaling of a time.

    Args:
        times: of the loop's turns.
        source: whether the pipeline looks at the number of a turn, and at what.
    """

    found: SchedulerPlan
    times: Sequence[float]
    source: LoopSource

    def networks(self) -> list[nn.Module]:
        return []

    def __call__(self, network: Callable[..., Any], x: Tensor, t: Tensor, cond: Any) -> Tensor:
        told, level = self.found.label.both(t[:1])
        index = self._turn(float(t[0])) if self.source.counts else 0
        scales = self.found.scales
        if scales is None:
            return network(x, told[0], index, cond)
        level = level.to(x)
        out = network(x, told[0], index, cond, scales.c_in(level)[0])
        if isinstance(scales, UnitInput):
            return out
        skip, gain = scales.outputs(level)
        return per_sample(skip, x) * x + per_sample(gain, x) * out

    def _turn(self, time: float) -> int:
        """The turn at the time, or the nearest."""
        found = min(range(len(self.times)), key=lambda k: abs(self.times[k] - time))
        if self.source.reads_levels and abs(self.times[found] - time) > 1e-5 * max(map(abs, self.times)):
            raise ValueError(
                f"t: got {time:g}, expected a time of the scheduler's own, such as {self.times[found]:g}: "
                f"{self.source.name} looks noise levels up by the number of a turn; take found.plan, or a method "
                "that calls the network on found.grid alone"
            )
        return found


def _scaled(c_in: Tensor | None, sample: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The product is rounded to the sample's type, and not its factor before."""
    return sample if c_in is None else (sample.to(c_in.dtype) * c_in).to(sample.dtype)


@dataclass(frozen=True)
class OneForAll(Label):
    """t itself, the same for all samples: a pipeline is told one time a turn."""

    def __call__(self, t: Tensor, process: Process) -> Tensor:
        return t

    def check(self, times: Tensor, process: Process) -> None:
        if times.ndim > 1 and bool((times != times[..., :1]).any()):
            raise ValueError(
                "plan: got a grid for each sample, expected one for all: a pipeline is told one time a turn; sample "
                "them apart"
            )
