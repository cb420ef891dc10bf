"""Watching a run: what callbacks and progress bars see of it."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..solvers import Plan
from ..solvers.loop import version
from ..solvers.packing import AsIs, Packing, State
from ..solvers.progress import progress_bar

Callback = Callable[[int, Any, State], None]


def show(callback: Callback, step: int, time: Any, state: Tensor, packing: Packing = AsIs()) -> None:
    """Call `callback` with a copy of the state.

    Raises:
        RuntimeError: where it wrote to the copy, as one does who means to change the run: nothing came of it.
    """
    copy = packing.unpack(state.detach().clone())
    leaves = tree_leaves(copy)
    before = [version(leaf) for leaf in leaves]
    callback(step, time, copy)
    if [version(leaf) for leaf in leaves] != before:
        raise RuntimeError(
            f"callback: got a write to the state of step {step}, expected it read only: it is a copy, and the run "
            "does not see what is written; clone it, or change the run by controls or a guide"
        )


class Watcher:
    """Tells a callback and a progress bar of every step of a run of `plan`, and of its end; a context manager."""

    def __init__(self, plan: Plan, callback: Callback | None, progress: bool, packing: Packing) -> None:
        self.plan, self.callback, self.packing = plan, callback, packing
        self.bar = progress_bar(total=plan.steps) if progress else None  # a disabled one takes 30 us to make

    def opened(self, step: int, state: Tensor) -> None:
        """Step `step` opens with `state`."""
        if self.callback is not None:
            show(self.callback, step, self.plan.times[step], state, self.packing)
        if step and self.bar is not None:
            self.bar.update()

    def ended(self, state: Tensor) -> None:
        """The last step has ended with `state`."""
        if self.bar is not None:
            self.bar.update()
        if self.callback is not None:
            show(self.callback, self.plan.steps, self.plan.times[-1], state, self.packing)

    def __enter__(self) -> "Watcher":
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()
