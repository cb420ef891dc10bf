"""Other methods at the first and the last steps of a method."""

import re
from dataclasses import dataclass

from ...compiler import Builder, Method
from ...instructions import Combine, Evaluate, Instruction, called_as, writes
from ...prediction import DATA, FLOW, NOISE, Prediction, conversion
from ...process import Process
from ..reversible_method import ReversibleMethod

FORMS = {"D": DATA, "E": NOISE, "u": FLOW}
HISTORY = re.compile("([DEu])([0-9]+)")


@dataclass(frozen=True)
class Ends(Method):
    """`base`, its first len(head) steps taken by the methods of `head` and its last len(tail) by those of `tail`.

        Ends(DPMSolverPP(3), tail=(DPMSolverPP(2), DDIM()))     "lower order final": 2 then 1
        Ends(FlowAdams(4), head=3 * (FlowHeun(),))              a warm-up of one's own
        Ends(DDIM(), head=(DPMSolverPP(2), DDIM(), DEIS(2)))    a choice for every step, as USF searches

    All share one history. A prediction that an earlier step made is not asked for again; one made in another form
    (data, noise, velocity) is converted at the node's state x, as a corrector left it: no network call. Where the plan
    is too short for both the tail's steps win.

    Order: a step of order p happens once, however many there are, and leaves an error h^{p+1}: the order is the
    least of `base`'s and p + 1 of each at the ends (a multistep method without `starter` at step k has p <= k + 1).
    So a tail of order 1 makes any method second order. Cost: of each step its own. Noise where one of them has it;
    no inverse, but for steps that have one.
    """

    base: Method
    head: tuple[Method, ...] = ()
    tail: tuple[Method, ...] = ()

    def __post_init__(self) -> None:
        for name, found in (("head", self.head), ("tail", self.tail)):
            if not isinstance(found, tuple) or not all(isinstance(each, Method) for each in found):
                raise TypeError(
                    f"{name}: got {found!r}, expected methods in a tuple; write ({found!r},) for one"
                )
        for each in (self.base, *self.head, *self.tail):
            if isinstance(each, ReversibleMethod):
                raise ValueError(
                    f"Ends: got {each}, which carries a second state from its first step to its last, expected "
                    "methods with one state; reversible methods have ends of their own"
                )

    @property
    def order(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        begun = [
            each.order if getattr(each, "starter", True) else min(each.order, k + 1)
            for k, each in enumerate(self.head)
        ]
        return min([self.base.order, *(p + 1 for p in begun), *(each.order + 1 for each in self.tail)])

    @property
    def stochastic(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return any(each.stochastic for each in (self.base, *self.head, *self.tail))

    def step(self, b: Builder, i: int) -> None:
        first, made = len(b.ops), set(b.evaluated)
        self.at(i, b.steps).step(b, i)
        emitted, b.ops[first:] = b.ops[first:], []
        moved = False
        for op in emitted:
            node = self._node(b, op, i, moved)
            b.ops += [op] if node is None else self._shared(b, op, node, made)  # type: ignore[arg-type]
            moved = moved or "x" in writes(op)

    def at(self, i: int, steps: int) -> Method:
        """The method of step i of `steps`."""
        if i >= steps - len(self.tail):
            return self.tail[i - steps]
        return self.head[i] if i < len(self.head) else self.base

    def _node(self, b: Builder, op: Instruction, i: int, moved: bool) -> int | None:
        """The node that `op` asks the network about: by its register's name, or by its state and time; else None."""
        if not isinstance(op, Evaluate):
            return None
        if match := HISTORY.fullmatch(op.outs[0]):
            node = int(match[2])
            if node <= b.steps and op.t == b.t[node]:
                return node
            raise ValueError(
                f"Ends: got {self.at(i, b.steps)}, which leaves {op.outs[0]} at t={op.t}, expected the prediction of "
                f"node {node} there, for other methods to read; take a method that keeps one grid"
            )
        return i if op.src == "x" and op.t == b.t[i] and not moved else None

    @staticmethod
    def _shared(b: Builder, op: Evaluate, node: int, made: set[str]) -> list[Instruction]:
        """`op`, from what earlier steps `made` of its node where they did, or else with its other forms as spares."""
        out = op.outs[0]
        if out in made and op.then is not None:
            raise ValueError(
                f"Ends: got a step that applies {called_as(op.then)} to {out}, which a step before it made without; "
                "expected the function around the whole: OnData(Ends(...), fn)"
            )
        if out in made:
            return []
        for form, have in FORMS.items():
            if f"{form}{node}" in made:
                return [_converted(b.process, op, have, f"{form}{node}", out, op.want)]
        found: list[Instruction] = [op]
        for form, want in FORMS.items():
            other = f"{form}{node}"
            if other == out:
                continue
            try:
                found.append(_converted(b.process, op, op.want, out, other, want))
            except ValueError:  # not determined at this end of the process
                continue
            b.spare.add(other)
        return found


def _converted(
    process: Process, at: Evaluate, have: Prediction, name: str, out: str, want: Prediction
) -> Combine:
    """out <- the prediction `want` at the state and time of `at`, from `have` in the register `name`."""
    x, gain = (float(c) for c in conversion(have, want, process, at.t))  # type: ignore[arg-type]
    return Combine(out, tuple([(c, register) for c, register in ((x, at.src), (gain, name)) if c != 0.0]))
