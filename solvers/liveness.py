"""Liveness: how long each register of a straight-line program must be held.

A step opens with its caller at the state: a control is added to "x", a callback looks at it. So the opening of
a step reads "x", whether or not the step's own instructions do.
"""

from collections.abc import Sequence

from .instructions import Instruction, reads, writes


def lifetimes(
    instructions: Sequence[Instruction], starts: Sequence[int], exit: Sequence[str]
) -> tuple[set[str], list[tuple[str, ...]]]:
    """(registers that must be there on entry, for each instruction those that nobody reads after it).

    Args:
        starts: index of the first instruction of each step.
        exit: registers that the caller reads at the end.
    """
    needed, opening, dead = set(exit), set(starts), []
    if len(instructions) in opening:  # a last step without instructions opens too
        needed.add("x")
    for k in range(len(instructions) - 1, -1, -1):
        op = instructions[k]
        dead.append(tuple([name for name in dict.fromkeys((*writes(op), *reads(op))) if name not in needed]))
        needed.difference_update(writes(op))
        needed.update(reads(op))
        if k in opening:
            needed.add("x")
    return needed, dead[::-1]
