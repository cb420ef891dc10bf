"""The canonical form of a plan, in which two writings of one method are equal.

Every prediction is rewritten as a x + b D, so each network input and the result become vectors over the basis
[x, D_0, D_1, ..., xi_0, ...]. Equivalence of methods is then `allclose` of two matrices.
"""

import torch
from torch import Tensor

from ..checked import checked
from ..instructions import Combine, Evaluate
from ..plan import Plan
from ..prediction import DATA, conversion


@checked
def expand(plan: Plan) -> Tensor:
    """(nfe + 1, 2 + nfe + slots) float64: for each evaluation its time then its input, last row the result.

    Raises:
        ValueError: for a stacked plan, one with an Apply, or one that starts from more than "x", which have no
            such table.
    """
    plan.check_linear("expand")
    plan.check_numbers("expand")
    if plan.batch is not None:
        raise ValueError("expand: got a stacked plan, expected one grid; expand the samples' plans apart")
    if plan.entry != ("x",):
        raise ValueError(f"expand: got a plan that starts from {plan.entry}, expected one from x alone")
    nfe, slots = plan.nfe, plan.slots
    unit = torch.eye(1 + nfe + slots, dtype=torch.float64)
    registers, rows = {"x": unit[0]}, []
    for op in plan.instructions:
        if isinstance(op, Evaluate):
            assert isinstance(op.t, float)
            a, b = conversion(DATA, op.want, plan.process, op.t)
            source, k = registers[op.src], len(rows)
            rows.append(torch.cat([torch.tensor([op.t], dtype=torch.float64), source]))
            registers[op.outs[0]] = a * source + b * unit[1 + k]
        elif isinstance(op, Combine):
            total = torch.zeros(1 + nfe + slots, dtype=torch.float64)
            for c, name in op.terms:
                total = total + c * registers[name]  # type: ignore[operator]
            for c, slot in op.noise:
                total = total + c * unit[1 + nfe + slot]  # type: ignore[operator]
            registers[op.out] = total
    last = torch.tensor([plan.times[-1]], dtype=torch.float64)
    return torch.stack([*rows, torch.cat([last, registers["x"]])])
