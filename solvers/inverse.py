"""Inversion of straight-line code, instruction by instruction, before the first network call: symbols only.

Going backwards, a Combine that overwrote a register is solved for what it overwrote; a prediction that is
gone is evaluated again, which is legal where its source stands there unchanged. Plain DDIM fails at its first
instruction: both the state and the prediction at it are unknown.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .instructions import Apply, Coefficient, Combine, Evaluate, Instruction, reads, writes
from .linear_map import LinearMap

MOST = 4  # two coupled states, and the start of a step at either infinite end


@dataclass(frozen=True)
class Undo:
    """How to step back over one instruction: run `again` for values that are gone, then solve for `target`.

    `again` counts instructions back from this one, so that equal steps share one object.
    """

    again: tuple[int, ...]
    target: str | None


@dataclass(frozen=True)
class Inversion:
    """`carried`: registers that must be kept at the end of the run; one Undo for each instruction."""

    carried: tuple[str, ...]
    undos: tuple[Undo, ...]


@dataclass(frozen=True)
class _Entered:
    """The content of a register that nobody has written yet."""


@dataclass(frozen=True)
class _Controlled:
    """The content of "x" after a control was added to it, where a step opens with instruction `opening`."""

    opening: int


@dataclass(frozen=True)
class _Written:
    """The content of a register since instruction `by`."""

    by: int


_Content = _Entered | _Controlled | _Written
_ENTERED = _Entered()


class _Walk:
    """Walks backwards and knows which content each register can be made to hold before every instruction.

    One step of BDIA, whose two states leap over each other, from the content X of x and Y of y:

        0:  D <- DATA(x)                  x: X   y: Y     D: [0]
        1:  y <- c y + a x + b D          x: X   y: [1]   D: [0]     [k] is the result of instruction k

    The walk starts at the end with x, and with y, which is carried there for it; not with D, a prediction. To undo
    1 it needs what 1 read. x is still X. D is gone, but 0 read X only: run it again. So the one unknown is Y, and 1
    is solved for it: y <- (y - a x - b D) / c. To undo 0 it forgets D. Had 1 written x instead, as DDIM does, X
    would be unknown, and D with it: two unknowns in one equation, which is refused.

    Attributes:
        have: registers whose content is at hand where the walk stands.
        pool: further registers that the run could carry to its end, with their content there, if need be.
        carried: those that it must.
        again: the instructions run again so far, for the Undo under way.
    """

    def __init__(
        self, code: Sequence[Instruction], starts: Sequence[int], entry: Sequence[str], name: str
    ) -> None:
        self.code, self.name, opening = code, name, set(starts)
        held: dict[str, _Content] = {register: _ENTERED for register in entry}
        self.read: list[tuple[_Content, ...]] = []  # by each instruction, in the order of `reads`
        self.opened: dict[int, _Content] = {}  # what "x" held before its control, where a step opens
        for k, op in enumerate(code):
            if k in opening and "x" in held:
                self.opened[k], held["x"] = held["x"], _Controlled(k)
            self.read.append(tuple([held[register] for register in reads(op)]))
            held.update(dict.fromkeys(writes(op), _Written(k)))
        self.have = {"x": held.pop("x")}
        self.pool = {register: content for register, content in held.items() if self._is_state(content)}
        self.carried = {"x"}
        self.again: list[int] = []

    def _is_state(self, content: _Content) -> bool:
        """Predictions are not carried: they are evaluated again."""
        return not isinstance(content, _Written) or isinstance(self.code[content.by], Combine)

    def undo(self, k: int) -> Undo:
        """Step back over instruction k; raises ValueError where that cannot be done."""
        op, target, self.again = self.code[k], None, []
        assert not isinstance(op, Apply)
        if isinstance(op, Evaluate):
            self._at_most(0, self._missing(k), k)
            self.have.pop(op.outs[0], None)
        elif _Written(k) in (self.have.get(op.out), self.pool.get(op.out)):
            target = self._solve(k, op)
        if self.have.get("x") == _Controlled(k):
            self.have["x"] = self.opened[k]
        return Undo(tuple([k - index for index in self.again]), target)

    def _solve(self, k: int, op: Combine) -> str | None:
        """Find what `op` is solved for, None if nothing is unknown; its result is gone after that."""
        missing = self._missing(k)
        self._at_most(1, missing, k)
        if missing and op.out not in self.have:
            self._carry(op.out)
        self.have.pop(op.out, None)
        self.pool.pop(op.out, None)
        if not missing:
            return None
        self.have[missing[0]] = dict(self._sources(k))[missing[0]]
        return missing[0]

    def _sources(self, k: int) -> list[tuple[str, _Content]]:
        """What instruction k read."""
        return list(zip(reads(self.code[k]), self.read[k], strict=True))

    def _missing(self, k: int) -> list[str]:
        """The registers that instruction k read and whose content of then cannot be had."""
        return [register for register, content in self._sources(k) if not self._obtain(register, content)]

    def _obtain(self, register: str, content: _Content) -> bool:
        """Make `register` hold `content`, by running instructions again or by carrying it; False if nothing helps."""
        if register in self.have:
            return self.have[register] == content
        if isinstance(content, _Written) and register not in reads(self.code[content.by]):
            before = dict(self.have), dict(self.pool), set(self.carried), list(self.again)
            if all(self._obtain(*source) for source in self._sources(content.by)):
                self.have[register] = content
                self.again.append(content.by)
                return True
            self.have, self.pool, self.carried, self.again = before
        if self.pool.get(register) == content:
            self._carry(register)
            return True
        return False

    def _carry(self, register: str) -> None:
        self.have[register] = self.pool.pop(register)
        self.carried.add(register)

    def _at_most(self, most: int, missing: list[str], k: int) -> None:
        if len(missing) > most:
            raise ValueError(
                f"{self.name}: instruction {k} cannot be undone: got unknown registers {missing}, "
                f"expected at most {most}; use a reversible method (ReversibleHeun, OBELM, BDIA, EDICT, "
                "Coupled, Rex) or Checkpoint()"
            )


def undoing(code: Sequence[Instruction], starts: Sequence[int], entry: Sequence[str], name: str) -> Inversion:
    """How to run `code` backwards, from what it carries at its end to its `entry`.

    A control may be added to "x" at each of `starts`; whoever walks back takes it off again there.

    Raises:
        ValueError: naming the first instruction, from the end, that cannot be undone.
    """
    for k, op in enumerate(code):
        if isinstance(op, Apply):
            raise ValueError(
                f"{name}: got the Apply {op} at instruction {k}, expected Combine and Evaluate only to invert; "
                "take a plan without it, or Checkpoint()"
            )
    walk = _Walk(code, starts, entry, name)
    same: dict[Undo, Undo] = {}
    undos = []
    for k in range(len(code) - 1, -1, -1):
        undo = walk.undo(k)
        undos.append(same.setdefault(undo, undo))
    lost = [register for register in entry if walk.have.get(register) != _ENTERED]
    if lost:
        raise ValueError(
            f"{name}: going backwards, got no value for the entry registers {lost}; expected each to be "
            "solved for; use a reversible method"
        )
    if len(walk.carried) > MOST:
        raise ValueError(
            f"{name}: its inverse needs {len(walk.carried)} states carried to the end, expected at most "
            f"{MOST}; use a reversible method, which needs two"
        )
    return Inversion(("x", *sorted(walk.carried - {"x"})), tuple(undos[::-1]))


def inverted(
    code: Sequence[Instruction], starts: Sequence[int], how: Inversion
) -> tuple[tuple[Instruction, ...], tuple[int, ...]]:
    """(instructions, starts) of the code that undoes `code`, its steps in the other order."""
    back: list[Instruction] = []
    opening: list[int] = []
    ends = {*starts[1:], len(code)}
    for k in range(len(code) - 1, -1, -1):
        if k + 1 in ends:
            opening.append(len(back))
        op, undo = code[k], how.undos[k]
        back += [code[k - distance] for distance in undo.again]
        if undo.target is not None:
            assert isinstance(op, Combine)
            back.append(_solved(op, undo.target))
    return tuple(back), tuple(opening)


def _solved(op: Combine, target: str) -> Combine:
    """`op` solved for `target`."""
    whole = next(c for c, name in op.terms if name == target)
    rest = [(_ratio(c, whole, -1.0), name) for c, name in op.terms if name != target]
    noise = tuple((_ratio(c, whole, -1.0), slot) for c, slot in op.noise)
    return Combine(target, ((_ratio(1.0, whole), op.out), *rest), noise)


def _ratio(a: Coefficient, b: Coefficient, sign: float = 1.0) -> Coefficient:
    """sign b^-1 a."""
    if isinstance(b, tuple):
        beside = a if isinstance(a, tuple) else (a,) * len(b)
        return tuple([_ratio(x, y, sign) for x, y in zip(beside, b, strict=True)])  # type: ignore[return-value]
    assert not isinstance(a, tuple)
    if isinstance(b, LinearMap):
        back = b.inverse().scaled(sign)
        return back.after(a) if isinstance(a, LinearMap) else back.scaled(a)
    return a.scaled(sign / b) if isinstance(a, LinearMap) else sign * a / b
