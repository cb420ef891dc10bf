"""LearnedCoefficients: the factors of a plan's linear combinations."""

import enum
from dataclasses import dataclass, replace

from torch import Tensor

from ...solvers import Combine, Evaluate, Model, Plan
from ...solvers.instructions import Instruction
from ...solvers.process import as_time
from ...solvers.wanted import Whole
from .part import Draft, LearnedPart

Vector = tuple[float, float]


class Kept(enum.Enum):
    """What a learned plan stays exact for.

    CONSTANT: predictions that are constant along the path. If D and E are, every register r of a plan is d_r D
        + e_r E with numbers known beforehand; a Combine sum c_r r keeps its value where sum c_r (d_r, e_r) is kept. Of
        m factors m - 2 are free, and the other two follow.
    STATE: the factors of the state itself, such as DDIM's sigma_t/sigma_s; those of predictions are free.
    NOTHING: all factors are free.
    """

    CONSTANT = "constant predictions"
    STATE = "factors of the state"
    NOTHING = "nothing"

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True)
class LearnedCoefficients(LearnedPart):
    """c + |c| theta_j for every free factor, with |c| the greatest factor of a prediction in that Combine, of x
    where those are 0.

    Args:
        history: so many of the last predictions enter each Combine that makes the state, with the factor nought where
            the plan does not read them: what a multistep method of that order may use, at no network call.
        kept: what the plan stays exact for.
    """

    history: Whole = 4
    kept: Kept = Kept.NOTHING
    rank = 1

    def size(self, draft: Draft, model: Model) -> int:
        return sum(len(free) for *_, free in self._combines(with_history(draft.plan, self.history)))

    def applied(self, draft: Draft, theta: Tensor, model: Model) -> Draft:
        plan = with_history(draft.plan, self.history)
        ops, rest = list(plan.instructions), iter(theta.tolist())
        for k, op, vectors, free in self._combines(plan):
            factors = [float(c) for c, _ in op.terms]  # type: ignore[arg-type]
            # a step to sigma = 0 has no x: its first factor is the prediction's
            unit = max((abs(c) for c in factors[1:]), default=0.0) or max(map(abs, factors)) or 1.0
            target = _sum(factors, vectors)
            for j in free:
                factors[j] += unit * next(rest)
            bound = [j for j in range(len(factors)) if j not in free]
            if self.kept is Kept.CONSTANT and free:
                _solve(factors, vectors, bound, target)
            terms = tuple([(c, name) for c, (_, name) in zip(factors, op.terms, strict=True)])
            ops[k] = replace(op, terms=terms)
        return replace(draft, plan=replace(plan, instructions=tuple(ops)))

    def _combines(self, plan: Plan) -> list[tuple[int, Combine, list[Vector], list[int]]]:
        """Each Combine with its place, what its registers are of D and E, and the terms that are free."""
        found, registers = [], dict[str, Vector]()
        start = as_time(plan.times[0])
        registers["x"] = float(plan.process.alpha(start)), float(plan.process.sigma(start))
        for k, op in enumerate(plan.instructions):
            if isinstance(op, Evaluate):
                d, e = op.want.row(plan.process, as_time(op.t))
                registers[op.outs[0]] = float(d), float(e)
            elif isinstance(op, Combine):
                vectors = [registers[name] for _, name in op.terms]
                found.append((k, op, vectors, self._free(op, vectors)))
                registers[op.out] = _sum([float(c) for c, _ in op.terms], vectors)  # type: ignore[arg-type]
        return found

    def _free(self, op: Combine, vectors: list[Vector]) -> list[int]:
        every = list(range(len(vectors)))
        if self.kept is Kept.NOTHING:
            return every
        if self.kept is Kept.STATE:
            return [k for k, (_, name) in enumerate(op.terms) if name != "x"]
        for j in every[1:]:  # the first two that are independent follow from the others
            if abs(_determinant(vectors[0], vectors[j])) > 1e-9:
                return [k for k in every if k not in (0, j)]
        return []


def with_history(plan: Plan, history: int) -> Plan:
    """`plan` with the last `history` predictions in each Combine that makes "x", nought times where it lacks them."""
    outs = [op.outs[0] for op in plan.calls]
    written = [op.out for op in plan.instructions if isinstance(op, Combine)]
    single = [name for name in outs if outs.count(name) == 1 and name not in written]
    made, ops = list[str](), list[Instruction]()
    for op in plan.instructions:
        if isinstance(op, Evaluate) and op.outs[0] in single:
            made.append(op.outs[0])
        if isinstance(op, Combine) and op.out == "x" and history:
            there = {name for _, name in op.terms}
            more = [(0.0, name) for name in reversed(made[-history:]) if name not in there]
            op = replace(op, terms=(*op.terms, *more))
        ops.append(op)
    return replace(plan, instructions=tuple(ops))


def _sum(factors: list[float], vectors: list[Vector]) -> Vector:
    pairs = list(zip(factors, vectors, strict=True))
    return sum(c * v[0] for c, v in pairs), sum(c * v[1] for c, v in pairs)


def _determinant(u: Vector, v: Vector) -> float:
    return u[0] * v[1] - u[1] * v[0]


def _solve(factors: list[float], vectors: list[Vector], bound: list[int], target: Vector) -> None:
    """Set the two factors that are bound so that the sum of the vectors is `target`."""
    first, second = bound
    factors[first] = factors[second] = 0.0
    now = _sum(factors, vectors)
    lacking = target[0] - now[0], target[1] - now[1]
    det = _determinant(vectors[first], vectors[second])
    factors[first] = _determinant(lacking, vectors[second]) / det
    factors[second] = _determinant(vectors[first], lacking) / det
