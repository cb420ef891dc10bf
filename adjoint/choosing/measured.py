"""The outlook of a run, measured once for each network, batch and plan."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ...solvers import Apply, Model, Plan, inversion
from ...solvers.instructions import writes
from ..replay.autograd_node import obstacle
from ..replay.bound_model import BoundModel
from ..replay.cond import leaves
from ..replay.fingerprint import COUNT
from ..replay.rollout import Registers, Rollout
from ..replay.wrappers import is_sharded
from .call_cost import measured_call
from .outlook import Outlook
from .own_cost import measured_own

_T = TypeVar("_T")

# by the network: what was measured of it, by all that it depends on. Numbers and words, which keep nothing alive
_KNOWN: Any = WeakIdKeyDictionary()


def outlook(rollout: Rollout, registers: Registers) -> Outlook:
    """What each exact strategy would take of `rollout` from `registers`.

    Raises:
        ValueError: a run that cannot be measured a call at a time.
    """
    _check(rollout)
    plan, x = rollout.program.plan, registers["x"]
    around = _around(rollout, registers)
    cost = _once(rollout.model, ("call", *around), lambda: measured_call(rollout, registers))
    why, one_way = obstacle(rollout) or cost.captured, _one_way(plan)
    method = (plan.name, len(plan.instructions) / plan.steps, bool(plan.slots), bool(why), bool(one_way))
    own = _once(
        rollout.model,
        ("own", *around, *method, type(rollout.noise).__name__, rollout.controls is None),
        lambda: measured_own(rollout, registers, not why, not one_way),
    )
    ops = rollout.program.ops
    return Outlook(
        calls=sum(1 for _ in rollout.program.calls()),
        steps=ops[-1].step - ops[0].step + 1,
        held=plan.held,
        carried=_carried(plan),
        state=x.nbytes,
        mark=len(x) * COUNT * x.element_size(),
        entry=sum(value.nbytes for value in registers.values()),
        wide=x.numel() * 8,
        cost=cost,
        own=own,
        obstacle=why,
        one_way=one_way,
        offloads=x.device.type != "cpu",
    )


def _check(rollout: Rollout) -> None:
    if any(isinstance(op, Apply) for op in rollout.program.plan.instructions):
        raise ValueError(
            f"Auto: got {rollout.program.plan.name} with Apply instructions, whose functions keep what no measurement "
            "of a network call tells, expected a plan without, or no limits; take Checkpoint() or Direct()"
        )
    if is_sharded(rollout.model):
        raise ValueError(
            "Auto: got sharded parameters (FSDP), whose calls all processes make together, expected a network that one "
            "process can call as often as it likes; take Checkpoint()"
        )


def _one_way(plan: Plan) -> str:
    """Why `plan` cannot be inverted; "" if it can."""
    try:
        inversion(plan)
    except ValueError as error:
        return str(error).partition(";")[0]
    return ""


def _carried(plan: Plan) -> float:
    """Registers alive when a step opens, on average."""
    alive, count, starts = set(plan.entry), 0, set(plan.starts)
    for k, (op, dead) in enumerate(zip(plan.instructions, plan.last_uses, strict=True)):
        count += len(alive) if k in starts else 0
        alive = (alive | set(writes(op))) - set(dead)
    return count / plan.steps


def _once(model: Model, key: tuple[Any, ...], measure: Callable[[], _T]) -> _T:
    """What was measured under `key`, now or before."""
    anchor = _anchor(model)
    if anchor is None:
        return measure()
    known = _KNOWN.setdefault(anchor, {})
    if key not in known:
        known[key] = measure()
    return known[key]


def _anchor(model: Model) -> Any:
    """What lives as long as the network does, however it is wrapped: its first parameter, module, or function."""
    found = (*model.parameters(), *model.networks(), *_called(model))
    return next((each for each in found if hasattr(each, "__weakref__") or isinstance(each, Tensor)), None)


def _called(model: Model) -> Iterator[Any]:
    """The functions that a model and those inside it call."""
    for value in vars(model).values():
        if isinstance(value, Model):
            yield from _called(value)
        elif callable(value) and hasattr(value, "__closure__"):
            yield value


def _around(rollout: Rollout, registers: Registers) -> tuple[Any, ...]:
    """All that a call's cost depends on, besides the network."""
    x, call = registers["x"], next(rollout.program.calls())
    model, device = rollout.model, x.device
    asked = None if call.op is None else (call.op.want.name, call.op.variance, call.op.then is None)
    modes = tuple(module.training for network in model.networks() for module in network.modules())
    tensors = tuple((value.numel(), value.dtype, value.requires_grad) for value in model.parameters())
    conditioning = tuple((*value.shape, value.dtype, value.requires_grad) for value in leaves(rollout.cond))
    autocast = (torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type))
    return (*x.shape, x.dtype, str(device), asked, modes, tensors, conditioning, autocast, *_layers(model))


def _layers(model: Model) -> Iterator[Any]:
    """The models around the network, with their numbers and flags, and what they call: guidance makes one call two."""
    yield type(model).__qualname__
    for name, value in vars(model).items():
        if isinstance(value, Model):
            yield from _layers(value)
        elif isinstance(value, bool | int | float | str | None) and not isinstance(model, BoundModel):
            yield name, value
        elif callable(value):
            code = getattr(value, "__code__", None)
            yield name, type(value).__qualname__, code and (code.co_filename, code.co_firstlineno)
