"""A plan that remembers nothing, as one row of numbers a step."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers import Combine, Evaluate, Model, Plan
from ...solvers.prediction import conversion


@dataclass(frozen=True, eq=False)
class StepCoefficients:
    """x' = a x + b F(x, t) + s xi(slot), (N,) float64 each, a number a step; slot -1 where none is drawn."""

    t: Tensor
    a: Tensor
    b: Tensor
    s: Tensor
    slots: list[int]


def steps_of(plan: Plan, model: Model) -> StepCoefficients:
    """Those of a plan for the prediction of `model`. Raises ValueError for one whose steps are of another form."""
    rows, slots = [], []
    for k in range(plan.steps):
        ops = plan.step(k)
        evaluate, step = ops if len(ops) == 2 else (None, None)
        if (
            not (isinstance(evaluate, Evaluate) and isinstance(step, Combine))
            or not {name for _, name in step.terms} <= {"x", *evaluate.outs}
            or (evaluate.src, step.out) != ("x", "x")
            or evaluate.then is not None
            or evaluate.variance
            or len(step.noise) > 1
            or plan.batch is not None
        ):
            raise ValueError(
                f"ShiftQueue: got {plan.name}, whose step {k} is no single call combined with x, expected steps that "
                "remember nothing; take DDIM(), DDPM() or FlowEuler() on one grid"
            )
        a, b = (float(c) for c in conversion(model.prediction, evaluate.want, plan.process, evaluate.t))  # type: ignore[arg-type]
        factors = {name: float(c) for c, name in step.terms}  # type: ignore[arg-type]
        gain = factors.get(evaluate.outs[0], 0.0)
        drawn, slot = step.noise[0] if step.noise else (0.0, -1)
        rows.append((evaluate.t, factors.get("x", 0.0) + gain * a, gain * b, drawn))
        slots.append(slot)
    t, a, b, s = torch.tensor(rows, dtype=torch.float64).T
    return StepCoefficients(t, a, b, s, slots)
