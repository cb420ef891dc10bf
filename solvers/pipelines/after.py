"""What a pipeline does to its latents after `scheduler.step`, as part of the plan."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..instructions import Apply
from ..plan import Plan
from .compiled import INDEX, LABEL
from .variables import LoopVariables


@dataclass(frozen=True, eq=False)
class AfterStep:
    """x -> the rest of the pipeline's turn of that number, after its step: inpainting puts the known part back, noised
    as far as the rest. Images and masks are those that `from_diffusers` was given.
    """

    loops: LoopVariables
    index: int

    def __call__(self, x: Tensor) -> Tensor:
        loop, variables = self.loops.of(None, len(x))
        code, (index, label) = loop.code, loop.code.source.targets
        assert code.rest is not None
        given = {code.source.state: x.to(loop.state.dtype), INDEX: self.index, LABEL: loop.labels[self.index]}
        given |= {label: given[LABEL]} | ({} if index is None else {index: self.index})
        given["self"] = loop.turned(variables["self"], self.index + 1, _unscaled)
        return code.played(code.rest, variables, **given).to(x.dtype)


def _unscaled(sample: Tensor, *args: object) -> Tensor:
    return sample


def with_rest(plan: Plan, loops: LoopVariables) -> Plan:
    """The plan with what the loop does after each step, where it does anything with its arguments."""
    loop = loops.opened(None)
    if loop.code.rest is None:
        return plan
    probe = torch.linspace(-1.0, 1.0, loop.state.numel()).to(loop.state).reshape(loop.state.shape)
    with torch.no_grad():
        if torch.equal(AfterStep(loops, 0)(probe), probe):
            return plan
    loops.worked_on = True
    steps = [(*plan.step(k), Apply(("x",), ("x",), AfterStep(loops, k))) for k in range(plan.steps)]
    starts = [sum(map(len, steps[:k])) for k in range(plan.steps)]
    return replace(plan, instructions=tuple(op for step in steps for op in step), starts=tuple(starts))
