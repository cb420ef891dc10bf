"""Methods that can be undone exactly: two coupled states instead of one.

A step that touches alpha = 0 or sigma = 0 is first order and keeps its starting state in a register of its
own.
"""

from abc import abstractmethod

from ..compiler import Builder, Method


def finite_run(b: Builder) -> tuple[int, int]:
    """First and last node with a finite lambda; only the ends of a grid can be infinite."""
    nodes = [i for i in range(b.steps + 1) if b.finite(i)]
    return (nodes[0], nodes[-1]) if nodes else (b.steps, b.steps)


class ReversibleMethod(Method):
    """A method whose finite part is emitted step by step between first-order ends that keep their start."""

    def step(self, b: Builder, i: int) -> None:
        low, high = finite_run(b)
        if low <= i < high:
            return self.inner(b, i, low, high)
        b.combine(f"kept{i}", (1.0, "x"))
        b.first_order(i, f"kept{i}")

    @abstractmethod
    def inner(self, b: Builder, i: int, low: int, high: int) -> None:
        """Emit step i, low <= i < high, all nodes low .. high finite."""
