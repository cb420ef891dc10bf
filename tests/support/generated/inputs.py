"""What enters a run, and how it came to be: views, expanded, dependent on one another, made in inference mode."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pullback.adjoint import PerStep

from .networks import CLASSES, FEATURES, WIDTH, Body


@dataclass
class Materials:
    """What inputs are made of.

    Attributes:
        roots: the leaves that a gradient may be asked at, by name.
        x: the state, once it is made.
    """

    net: Body
    batch: int
    steps: int
    dtype: torch.dtype
    roots: dict[str, Tensor]
    x: Tensor | None = None

    def leaf(self, name: str, *shape: int) -> Tensor:
        self.roots[name] = torch.randn(*shape, dtype=self.dtype).requires_grad_()
        return self.roots[name]


Making = Callable[[Materials], Any]


# the state


def leaf_state(m: Materials) -> Tensor:
    return m.leaf("x", m.batch, FEATURES)


def constant_state(m: Materials) -> Tensor:
    return torch.randn(m.batch, FEATURES, dtype=m.dtype)


def state_with_more_axes(m: Materials) -> Tensor:
    return m.leaf("x", m.batch, 1, FEATURES)


def view_of_a_leaf(m: Materials) -> Tensor:
    return m.leaf("x", m.batch, FEATURES + 2)[:, 1:-1]


def transposed_leaf(m: Materials) -> Tensor:
    return m.leaf("x", FEATURES, m.batch).T


def one_for_all_samples(m: Materials) -> Tensor:
    return m.leaf("x", 1, FEATURES).expand(m.batch, FEATURES)


def computed_state(m: Materials) -> Tensor:
    return torch.tanh(m.leaf("x", m.batch, FEATURES)) * 1.5


def state_of_the_network(m: Materials) -> Tensor:
    """A leaf that the network reads too."""
    style = m.net.get_parameter("style") if hasattr(m.net, "style") else m.leaf("x", WIDTH)
    return style.reshape(1, 2, FEATURES).expand(m.batch, 2, FEATURES)[:, 0]


def parameter_as_state(m: Materials) -> Tensor:
    """x itself is a parameter of the network."""
    start = nn.Parameter(torch.randn(m.batch, FEATURES, dtype=m.dtype))
    m.net.register_parameter("start", start)
    return start


def half_state(m: Materials) -> Tensor:
    m.roots["x"] = torch.randn(m.batch, FEATURES).to(torch.bfloat16).requires_grad_()
    return m.roots["x"]


def inference_state(m: Materials) -> Tensor:
    with torch.inference_mode():
        return torch.randn(m.batch, FEATURES, dtype=m.dtype)


STATES: tuple[Making, ...] = (
    leaf_state, leaf_state, constant_state, state_with_more_axes, view_of_a_leaf, transposed_leaf, one_for_all_samples,
    computed_state, state_of_the_network, parameter_as_state, half_state, inference_state,
)  # fmt: skip

# the conditioning


def no_cond(m: Materials) -> Any:
    return None


def leaf_cond(m: Materials) -> Any:
    return m.leaf("cond", m.batch, WIDTH)


def shared_cond(m: Materials) -> Any:
    return m.leaf("cond", WIDTH)


def labels(m: Materials) -> Any:
    return torch.arange(m.batch) % CLASSES


def nested_cond(m: Materials) -> Any:
    text = m.leaf("text", m.batch, WIDTH)
    return {"text": text, "more": (m.leaf("image", WIDTH), [labels(m), text]), "none": None}


def cond_per_step(m: Materials) -> Any:
    return {"scale": PerStep(m.leaf("per step", m.steps, m.batch, WIDTH)), "plain": m.leaf("cond", WIDTH)}


def cond_from_the_state(m: Materials) -> Any:
    assert m.x is not None
    return torch.cat([m.x.reshape(m.batch, FEATURES).to(m.dtype).tanh()] * 2, 1)


def cond_of_the_network(m: Materials) -> Any:
    return m.net.get_parameter("style") if hasattr(m.net, "style") else m.net.enter.bias


def expanded_cond(m: Materials) -> Any:
    return m.leaf("cond", 1, WIDTH).expand(m.batch, WIDTH)


def inference_cond(m: Materials) -> Any:
    with torch.inference_mode():
        return torch.randn(m.batch, WIDTH, dtype=m.dtype)


def inference_labels(m: Materials) -> Any:
    with torch.inference_mode():
        return labels(m)


CONDS: tuple[Making, ...] = (
    no_cond, no_cond, leaf_cond, shared_cond, labels, nested_cond, cond_per_step, cond_from_the_state,
    cond_of_the_network, expanded_cond, inference_cond, inference_labels,
)  # fmt: skip

# what is added to the state at each step


def no_controls(m: Materials) -> Any:
    return None


def leaf_controls(m: Materials) -> Any:
    assert m.x is not None
    return m.leaf("controls", m.steps, *m.x.shape)


def controls_from_the_state(m: Materials) -> Any:
    assert m.x is not None
    return torch.stack([0.1 * (k + 1) * m.x for k in range(m.steps)])


def one_control_for_all_steps(m: Materials) -> Any:
    assert m.x is not None
    return m.leaf("controls", *m.x.shape).expand(m.steps, *m.x.shape)


CONTROLS: tuple[Making, ...] = (
    no_controls,
    no_controls,
    leaf_controls,
    controls_from_the_state,
    one_control_for_all_steps,
)
