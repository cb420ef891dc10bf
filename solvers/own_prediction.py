"""A plan in the network's own prediction: its numbers then lie in the Combines alone, and t is only what it is told."""

from dataclasses import replace

from .checked import checked
from .instructions import Combine, Evaluate, Instruction
from .model import Model
from .plan import Plan
from .prediction import conversion


@checked
def in_own_prediction(plan: Plan, model: Model) -> Plan:
    """The same sampler with `model.prediction` asked for at every call, and the conversion behind it,

        P <- P(x, t)    becomes    P <- F(x, t),  P <- a x + b F

    with the numbers a, b of `conversion`. What remains of t in it is the time that the network is told: another one
    leaves every factor as it is, which is how a plan's time labels are learned apart from its noise levels.

    Raises:
        ValueError: a stacked plan, one with an Apply or a function on its predictions.

    Cost: a Combine of two terms more for each call that is rewritten.
    """
    plan.check_affine("in_own_prediction")
    if plan.batch is not None:
        raise ValueError(
            f"in_own_prediction: got a plan with one grid for each of {plan.batch} samples, expected one grid; rewrite "
            "the samples' plans apart"
        )
    steps = [[each for op in plan.step(i) for each in _rewritten(op, plan, model)] for i in range(plan.steps)]
    starts = [sum(len(step) for step in steps[:i]) for i in range(plan.steps)]
    return replace(plan, instructions=tuple(op for step in steps for op in step), starts=tuple(starts))


def _rewritten(op: Instruction, plan: Plan, model: Model) -> list[Instruction]:
    if not isinstance(op, Evaluate) or op.want == model.prediction:
        return [op]
    (out,) = op.outs
    a, b = conversion(model.prediction, op.want, plan.process, op.t)  # type: ignore[arg-type]
    terms = tuple([(float(c), name) for c, name in ((a, op.src), (b, out)) if float(c)])
    return [replace(op, want=model.prediction), Combine(out, terms)]
