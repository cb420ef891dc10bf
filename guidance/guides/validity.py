"""Which plans can carry which hooks of a guide."""

import torch

from ...solvers import DATA, Evaluate, Model, Plan
from ...solvers.instructions import reads, writes
from ...solvers.kinds import check_kind, described
from ...solvers.prediction import conversion
from ...solvers.process import as_time
from ..measurements.measurement import Measurement
from .guide import Guide, Hook


def check_hooks(plan: Plan, model: Model, hooks: frozenset[Hook]) -> None:
    """Raise ValueError where `plan` cannot carry one of `hooks`, or where what `model` predicts does not
    determine D(x_t), as with noise at alpha = 0.
    """
    for hook in sorted(hooks, key=lambda h: h.value):
        if reason := refusal(plan, hook):
            raise ValueError(
                f"guide: got {plan.name} for a guide with the {hook.value} hook, expected a plan that can "
                f"carry it; this one has {reason}; take DDIM, DDPM or DPMSolverPP on a falling grid, or a "
                "guide on the data prediction"
            )
    times = [op.t for op in plan.instructions if isinstance(op, Evaluate)]
    noisy = [t for t in times if bool((plan.process.sigma(as_time(t)) > 0).all())]
    if noisy:
        conversion(model.prediction, DATA, plan.process, torch.tensor(noisy, dtype=torch.float64))


def check_fields(guide: Guide) -> None:
    """Raise TypeError where a part of `guide` was made of something else than a measurement or a loss."""
    for part in guide.parts():
        inner = getattr(part, "guide", part)  # of a Window
        name = type(inner).__name__
        measurement, loss = (getattr(inner, field, None) for field in ("measurement", "loss"))
        if hasattr(inner, "measurement"):
            check_kind(f"{name}.measurement", measurement, Measurement, "a Measurement; write "
                       f"{name}(Measurement(Mask(keep), y, noise_std=0.05))")  # fmt: skip
        if hasattr(inner, "loss") and (isinstance(loss, type) or not callable(loss)):
            raise TypeError(
                f"{name}.loss: got {described(loss)}, expected a function of the data prediction (B, ...) to (B,); "
                "pass a Measurement, or lambda x: ..."
            )


def refusal(plan: Plan, hook: Hook) -> str:
    """What `plan` has that keeps it from carrying `hook`, or "" where it can.

    | hook | plans that carry it |
    |---|---|
    | DATA, VELOCITY | all that denoise: not the inverse of a plan, not a rising grid |
    | ACCEPT | of those, all whose steps open: `opens` |
    | STATE, REPEAT | of those, all that carry one state: not BDIA, EDICT, reversible Heun and kin |
    """
    if plan.entry != ("x",) or plan.exit != ("x",):
        return "more registers than x to start from or to leave: an inverse, or a part of a split plan"
    if plan.maps:
        return "coefficients that are maps of the state, not numbers"
    if any(isinstance(op, Evaluate) and len(op.outs) > 1 for op in plan.instructions):
        return "a network call of which it takes two results"
    if plan.rises:
        return "a grid that rises from data to noise"
    if hook in (Hook.DATA, Hook.VELOCITY):
        return ""
    if hook is not Hook.ACCEPT and (states := _states_between(plan)):
        return f"a second state ({states[0]}) carried from step to step, which a change of x alone would contradict"
    closed = next((k for k in range(plan.steps) if not opens(plan, k)), None)
    return "" if closed is None else f"a step ({closed}) without a network call at its start time and state"


def opens(plan: Plan, step: int) -> bool:
    """Whether a step opens with a network call at the time and the "x" it starts from: not where a corrector
    made that call a step earlier, nor where churn comes first.
    """
    for op in plan.step(step):
        if isinstance(op, Evaluate) and op.src == "x" and op.t == plan.times[step]:
            return True
        if "x" in writes(op):
            return False
    return False


def _states_between(plan: Plan) -> list[str]:
    """Registers alive between two steps beside "x", predictions left out: a multistep method may keep those,
    for they stay true whatever becomes of x. What is combined of predictions alone is one.
    """
    alive, found, predicted, bounds = {"x"}, [], set(), set(plan.starts[1:])
    for k, (op, dead) in enumerate(zip(plan.instructions, plan.last_uses, strict=True)):
        if k in bounds:
            found += sorted(alive - {"x"} - predicted)
        alive |= set(writes(op))
        if isinstance(op, Evaluate) or all(name in predicted for name in reads(op)):
            predicted |= set(writes(op))
        else:
            predicted -= set(writes(op))
        alive -= set(dead)
    return found
