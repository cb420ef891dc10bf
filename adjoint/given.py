"""Given: everything that goes into a run, checked, as strategies take it."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ..solvers import GivenNoise, Model, Noise, Plan
from ..solvers import coefficients as numbers_of
from ..solvers.coefficient_tensor import bound
from ..solvers.opening import Opening, carried, check_state
from ..solvers.packing import State
from ..solvers.per_step import PerStep, check_steps
from ..solvers.program import prepare
from .replay.bound_model import BoundModel
from .replay.cond import leaves
from .replay.rollout import Registers, Rollout, Watch


@dataclass(frozen=True, eq=False)
class Given:
    """What a run is made of. States are packed, and carried in float32 at least.

    Attributes:
        start: model (bound), plan, registers, noise, and how the caller's states are packed.
        cond: as given, in containers of our own: the caller may fill his anew before the backward pass.
        scheduled: whether any of it is PerStep.
        controls: (N, B, ...), packed.
        coefficients: (K,) in place of the plan's own.
    """

    start: Opening
    cond: Any
    scheduled: bool
    controls: Tensor | None
    coefficients: Tensor | None

    @classmethod
    def of(
        cls,
        denoiser: Model,
        plan: Plan,
        x: State | dict[str, State],
        cond: Any,
        noise: Noise | State | None,
        controls: State | None,
        coefficients: Tensor | None,
    ) -> "Given":
        """Raises ValueError for what does not fit the plan, the state or the batch."""
        x, cond, noise, controls = (tree_map(_ordinary, value) for value in (x, cond, noise, controls))
        start = _widened(Opening.of(denoiser, plan, x, noise))
        start = replace(start, model=BoundModel(start.model))  # what is behind it is looked for once
        scheduled = check_steps(cond, plan.steps)
        if controls is not None:
            controls = start.packing.pack(controls, "controls", lead=1)
            check_controls(controls, plan.steps, start.registers["x"])
        if coefficients is not None:
            _check_coefficients(coefficients, numbers_of(start.plan, start.model))
        return cls(start, cond, scheduled, controls, coefficients)

    @property
    def registers(self) -> Registers:
        """What the run starts from; a dict of its own, for a run changes it."""
        return dict(self.start.registers)

    def tensors(self) -> list[Tensor]:
        """All tensors that are known to enter."""
        own = [] if self.coefficients is None else [self.coefficients]
        return [*self.start.registers.values(), *own, *self.at_every_step()]

    def at_every_step(self) -> list[Tensor]:
        """Those that enter after the start too."""
        source, found = self.start.noise, [*leaves(self.cond), *self.start.model.parameters()]
        if self.controls is not None:
            found.append(self.controls)
        if isinstance(source, GivenNoise):
            found.append(source.values)
        return found

    def rollout(self, watch: Watch, at: tuple[int, ...]) -> Rollout:
        """The run. Raises ValueError for a model of another process, or a batch that a stacked plan does not fit."""
        start = self.start
        program = prepare(start.plan, start.model, start.registers["x"])
        if self.coefficients is not None:
            program = bound(program, self.coefficients, start.registers["x"])
        return Rollout(program, start.model, self.cond, self.scheduled, start.noise, self.controls, watch, at)


def _ordinary(value: Any) -> Any:
    """A tensor made under inference_mode as one that autograd may save; anything else as it is."""
    if isinstance(value, PerStep):
        return PerStep(_ordinary(value.values))
    made_there = isinstance(value, Tensor) and value.is_inference() and not torch.is_inference_mode_enabled()
    return value.clone() if made_there else value


def _widened(start: Opening) -> Opening:
    """The registers as they are carried, in float32 at least."""
    for value in start.registers.values():
        check_state(value)
    return replace(start, registers={name: carried(value) for name, value in start.registers.items()})


def check_controls(controls: Tensor, steps: int, x: Tensor) -> None:
    """Raise ValueError unless controls are (N, B, ...), numbers that can be added to the state x (B, ...)."""
    if controls.shape != (steps, *x.shape):
        raise ValueError(
            f"controls: got shape {tuple(controls.shape)}, expected {(steps, *x.shape)}: one per step; "
            "torch.zeros(plan.steps, *x.shape) is the neutral one"
        )
    if not controls.is_floating_point() or controls.device != x.device:
        raise ValueError(
            f"controls: got {controls.dtype} on {controls.device}, expected floating point on {x.device}, as x; pass "
            "controls.to(x)"
        )


def _check_coefficients(values: Tensor, own: Tensor) -> None:
    if values.shape != own.shape:
        raise ValueError(
            f"coefficients: got shape {tuple(values.shape)}, expected {tuple(own.shape)}: what "
            "coefficients(plan, denoiser) lists"
        )
