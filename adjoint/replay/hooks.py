"""Tensor hooks, out of the way while a gradient is taken in parts."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor


@contextmanager
def hooks_suspended(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Hooks of `tensors` (`register_hook`) do not run inside.

    A hook is for the whole gradient: autograd calls it when a run hands back the sum over its calls. Autograd
    also calls it whenever a gradient is taken at that tensor, and a replay takes a part of the sum: a hook that
    clips or halves would act N + 1 times.
    """
    # the dictionaries are what autograd looks into, and what handles are removed from
    held = [(hooks, dict(hooks)) for value in tensors if (hooks := value._backward_hooks)]
    for hooks, _ in held:
        hooks.clear()
    try:
        yield
    finally:
        for hooks, whole in held:
            hooks.update(whole)
