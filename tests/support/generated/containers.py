"""Where users keep their network: what a Denoiser is given."""

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from .networks import Body, Network, Wrapped

Container = Callable[[Body], Network]


def module(net: Body) -> Network:
    return net


def behind_a_lambda(net: Body) -> Network:
    return lambda *args: net(*args)


def in_a_dict(net: Body) -> Network:
    held = {"unet": net}
    return lambda *args: held["unet"](*args)


def in_a_list(net: Body) -> Network:
    held = [[net]]
    return lambda *args: held[0][0](*args)


def in_a_namespace(net: Body) -> Network:
    held = SimpleNamespace(unet=net)
    return lambda *args: held.unet(*args)


def in_a_partial(net: Body) -> Network:
    def call(models: dict[str, Body], *args: Any) -> Tensor:
        return models["unet"](*args)

    return functools.partial(call, {"unet": net})


def by_a_method(net: Body) -> Network:
    return Wrapped(net).predict


def by_its_forward(net: Body) -> Network:
    return net.forward


def behind_two_functions(net: Body) -> Network:
    def outer() -> Network:
        def inner(*args: Any) -> Tensor:
            return net(*args)

        return lambda *args: inner(*args)

    return outer()


CONTAINERS: tuple[Container, ...] = (
    module, behind_a_lambda, in_a_dict, in_a_list, in_a_namespace, in_a_partial, by_a_method, by_its_forward,
    behind_two_functions,
)  # fmt: skip
