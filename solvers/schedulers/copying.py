"""A copy of a scheduler to play with."""

import copy
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves


def copied(scheduler: Any) -> Any:
    """The scheduler as it is, without the graphs of a run that was differentiated: it may remember predictions."""
    held = [each for each in tree_leaves(list(vars(scheduler).values())) if isinstance(each, Tensor)]
    return copy.deepcopy(scheduler, {id(each): each.detach().clone() for each in held})
