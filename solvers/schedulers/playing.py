"""Playing: a scheduler's loop on unit vectors, from the first turn to the last."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..calling import FirstChannels
from ..methods.around.on_data import DynamicThreshold
from ..plan import Plan
from ..process import as_time
from .clocks import TableLabels
from .convention import Convention
from .found import SchedulerPlan
from .known import named_order
from .learned import HalfCall, OnHalf, Variances
from .recorder import StepRecorder, recorded
from .scaled_call import Scales


@dataclass(eq=False)
class Playing:
    """One loop of the scheduler `s`, a copy on which `set_timesteps` has been called.

    Attributes:
        levels, times, labels: of each call: the process's time, the same told apart (`TableLabels`), the label.
        variances: where the network's answer holds one that the step uses.
    """

    s: Any
    convention: Convention
    options: dict[str, Any]
    recorder: StepRecorder = field(default_factory=StepRecorder)
    levels: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    labels: Sequence[Tensor] = ()
    variances: Variances | None = None

    def found(self, begin: int, turns: int | None = None) -> SchedulerPlan:
        """The loop without its first `begin` turns, and of `turns` turns at most."""
        s, recorder, convention = self.s, self.recorder, self.convention
        calling = self._prepare()
        left = convention.labels(s)[begin:]
        self.labels = left[:turns]
        scale = float(getattr(s, "init_noise_sigma", 1.0))
        x = recorder.register("x")
        for k in range(len(self.labels)):
            new = self._turn(x, k, begin + k)
            if k + 1 < len(self.labels):
                recorder.keep(s)
            if self.variances is not None and self.variances.met:
                recorder.write_learned(new, self.variances.taken())
            else:
                recorder.write("x", new)
            recorder.free(s)
            x = recorder.register("x")
        plan = Plan(
            f"{type(s).__name__}, as shipped",
            convention.process(s),
            (*self.times, self._end(left)),
            tuple(recorder.ops),
            tuple(recorder.starts),
            named_order(s),
            recorder.draws > 0,
        )
        label = TableLabels(
            as_time(self.times),
            as_time([float(each) for each in self.labels]),
            as_time(self.levels),
            convention.near(s),
            whole=not torch.as_tensor(self.labels[0]).is_floating_point(),
        )
        return SchedulerPlan(plan, convention.prediction(s), label, scale, convention.scales(s), calling)

    def _end(self, left: Sequence[Tensor]) -> float:
        """The time of the last state: the process's own, or where the next turn would begin."""
        last = len(self.labels)
        return self.convention.end(self.s) if last == len(left) else self.convention.time(self.s, left[last])

    def _prepare(self) -> type[FirstChannels] | type[HalfCall] | None:
        """What is not linear or draws by itself goes through the recorder. How a learned variance is taken."""
        s, recorder = self.s, self.recorder
        learned = s.config.get("variance_type") in ("learned", "learned_range")
        used = learned and hasattr(s, "_get_variance")
        if used:
            self.variances = Variances(s)
        elif learned:
            s.register_to_config(variance_type=None)  # it would take the first three channels of any state
        if hasattr(s, "_threshold_sample"):
            limit = DynamicThreshold(s.config.dynamic_thresholding_ratio, s.config.sample_max_value)
            fn = OnHalf(limit) if used else limit
            s._threshold_sample = lambda data: recorder.applied(data, fn)
        if hasattr(s, "noise_sampler"):
            s.noise_sampler = recorder.brownian
        return HalfCall if used else FirstChannels if learned else None

    def _turn(self, x: Tensor, k: int, turn: int) -> Tensor:
        """The state after the network's k-th call, in the pipeline's turn of that number."""
        s, recorder, convention, label = self.s, self.recorder, self.convention, self.labels[k]
        recorder.begin()
        if getattr(s, "step_index", 0) is None and hasattr(s, "_init_step_index"):
            s._init_step_index(label)
        self.levels.append(convention.time(s, label))
        self.times.append(self._told_apart())
        out = recorder.evaluated(self.times[-1], convention.prediction(s))
        scales = convention.scales(s)
        if scales is not None:
            out = _network_answer(scales, self.levels[-1], x, out)
        with recorder:
            if hasattr(s, "scale_model_input"):
                s.scale_model_input(x, label)
            new = convention.step(s, (out, label, x, turn), self.options)
        if not recorded(new):
            raise ValueError(
                f"{type(s).__name__}: got a step that changes the state's shape, expected one shape throughout; sample "
                "stage by stage"
            )
        return new

    def _told_apart(self) -> float:
        """The newest level, or next to it where there was a call before: two places of float32 away."""
        time = self.levels[-1]
        while time in self.times:
            at = np.float32(time)
            for _ in range(2):
                at = np.nextafter(at, np.float32(np.inf))
            time = float(at)
        return time


def _network_answer(scales: Scales, t: float, x: Tensor, out: Tensor) -> Tensor:
    """F of `out` = c_skip x + c_out F."""
    skip, gain = scales.outputs(as_time(t))
    return (out - skip * x) / gain
