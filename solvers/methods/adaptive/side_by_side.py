"""One plan of plans with unlike numbers of steps: what ends early waits for the others in steps that do nothing."""

from dataclasses import replace

from ...instructions import Combine, Evaluate, Instruction
from ...plan import Plan, stack


def side_by_side(plans: list[Plan]) -> Plan:
    """One plan for B samples, a grid each, of single-step plans of one method; a plan alone stays as it is.

    A step that does nothing is the longest plan's, with its calls at the sample's last time, every Combine the state
    itself and no noise: its gradient is the identity, too.
    """
    longest = max(plans, key=lambda plan: plan.steps)
    return plans[0] if len(plans) == 1 else stack([_extended(plan, longest) for plan in plans])


def _extended(plan: Plan, longest: Plan) -> Plan:
    missing = longest.steps - plan.steps
    idle = [op for i in range(plan.steps, longest.steps) for op in _idle(plan, longest.step(i))]
    return replace(
        plan,
        times=plan.times + plan.times[-1:] * missing,
        instructions=(*plan.instructions, *idle),
        starts=longest.starts,
    )


def _idle(plan: Plan, step: tuple[Instruction, ...]) -> list[Instruction]:
    """The instructions of a step, such that "x" and every stage are what "x" was."""
    states, out = {"x"}, []
    for op in step:
        if isinstance(op, Evaluate):
            out.append(replace(op, t=plan.times[-1]))
        elif isinstance(op, Combine):
            keep = next(k for k, (_, name) in enumerate(op.terms) if name in states)
            terms = tuple((float(k == keep), name) for k, (_, name) in enumerate(op.terms))
            out.append(replace(op, terms=terms, noise=tuple((0.0, slot) for _, slot in op.noise)))
            states.add(op.out)
    return out
