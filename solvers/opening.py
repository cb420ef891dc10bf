"""Opening: what a run starts from, checked, as the loop takes it: one tensor a register."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .model import Model
from .noise import GivenNoise, Noise
from .packing import AsIs, Packing, State, packing_of
from .plan import Plan


@dataclass(frozen=True, eq=False)
class Opening:
    """A model, a plan, registers and noise over packed states; `packing` makes the caller's of them again."""

    model: Model
    plan: Plan
    registers: dict[str, Tensor]
    noise: Noise | None
    packing: Packing

    @classmethod
    def of(cls, model: Model, plan: Plan, x: State, noise: Any) -> "Opening":
        """Raises ValueError where x or noise is not what `plan` starts from.

        Args:
            x: a state, or a dict with exactly the names of `plan.entry`, which are registers, a state each.
            noise: a source; or the draws themselves, in the form of x with an axis of slots before the batch.
        """
        registers = _named(plan, x)
        packing = packing_of(registers["x"])
        packed = {name: packing.pack(value, name) for name, value in registers.items()}
        for name, value in packed.items():
            check_state(value, name=name)
            if value.shape != packed["x"].shape:  # one sample's history would be broadcast to all of them
                raise ValueError(
                    f"{name}: got shape {tuple(value.shape)}, expected {tuple(packed['x'].shape)}, that of x"
                )
        source = _source(noise, packing)
        _check_noise(plan, source, packed["x"])
        return cls(packing.model(model), packing.plan(plan), packed, source, packing)


def check_state(x: Any, asker: str = "", *, name: str = "x") -> None:
    """Raise ValueError unless x is one tensor (B, ...) that a run can start from."""
    if not isinstance(x, Tensor):
        raise ValueError(
            f"{name}: got {type(x).__name__}, expected a tensor (B, ...)"
            + (f": {asker} takes neither registers nor joint states" if asker else "")
        )
    if x.ndim < 2 or not x.is_floating_point():
        raise ValueError(
            f"{name}: got shape {tuple(x.shape)} of {x.dtype}, expected a floating point (B, ...) state with a batch "
            f"axis; pass {name}{'[None]' if x.is_floating_point() else '.float(), scaled to the range of the data'}"
        )
    if x.is_meta:
        raise ValueError(f"{name}: got a tensor on meta, expected numbers; move it to the network's device")


def carried(x: Tensor) -> Tensor:
    """x, in float32 at least: a state is a sum of many small steps."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def only_state(plan: Plan, x: State, asker: str) -> State:
    """The state that `plan` starts from. Raises ValueError where it starts from more registers than that."""
    if plan.entry != ("x",):
        raise ValueError(
            f"{asker}: got {plan.name}, which starts from the registers {', '.join(plan.entry)}, expected a plan "
            "that starts from a state; take the whole plan, or sample in a loop of your own"
        )
    return _named(plan, x)["x"]


def _named(plan: Plan, x: State) -> dict[str, State]:
    """The registers that `plan` starts from, by name."""
    if isinstance(x, dict) and set(x) == set(plan.entry):
        return dict(x)
    if plan.entry != ("x",):
        got = sorted(map(str, x)) if isinstance(x, dict) else ["x"]
        raise ValueError(
            f"x: got registers {got}, expected {sorted(plan.entry)} for {plan.name}; an inverse starts from what "
            "`encode` returns, the rest of a split plan from what `advance` does"
        )
    return {"x": x}


def packed_noise(noise: Any, packing: Packing) -> Noise | Tensor | None:
    """`noise` over packed states: a source, or its draws (slots, B, ...)."""
    if isinstance(noise, GivenNoise):
        noise = noise.values
    # a tensor beside a joint state is packed: as `RecordedNoise` kept it
    if noise is None or isinstance(noise, Noise | Tensor):
        return noise
    if isinstance(packing, AsIs):
        raise ValueError(
            f"noise: got {type(noise).__name__}, expected a source such as Addressed(seed), or a tensor "
            "(slots, B, ...)"
        )
    return packing.pack(noise, "noise", lead=1)


def _source(noise: Any, packing: Packing) -> Noise | None:
    packed = packed_noise(noise, packing)
    return GivenNoise(packed) if isinstance(packed, Tensor) else packed


def _check_noise(plan: Plan, noise: Noise | None, x: Tensor) -> None:
    if not plan.slots:
        return
    if noise is None:
        raise ValueError(
            f"noise: got None, expected a source with {plan.slots} slots for {plan.name}; pass "
            "noise=Addressed(seed), or a tensor (slots, B, ...)"
        )
    noise.check(plan.slots, x)
