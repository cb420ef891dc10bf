"""A nested function is checked at every call as beartype would check it, though its check is written once."""

import weakref
from typing import Any

import pytest
import torch
from beartype import BeartypeConf, beartype
from checked_once import once
from torch import Tensor

from pullback.adjoint import Checkpoint, sample
from pullback.solvers import DATA, DDIM, VP, Denoiser, UniformT


def counting():
    """A decorator, and what beartype was asked to decorate by it."""
    asked: list[Any] = []

    def decorate(thing):
        asked.append(thing)
        return beartype(conf=BeartypeConf(violation_type=TypeError))(thing)

    return once(decorate), asked


class Held:
    """What a closure may hold."""


def outer(decorated, held, hint: Any = Tensor | None):
    @decorated
    def inner(x: Tensor, *more: int, scale: float) -> hint:  # type: ignore
        """Doc."""
        return None if held is None else held if more else x * scale

    inner.mark = held  # type: ignore
    return inner


def test_every_one_is_checked_and_is_itself():
    decorated, asked = counting()
    functions = [outer(decorated, held) for held in (None, "no tensor", 3)]
    assert len(asked) == 1
    for function, held in zip(functions, (None, "no tensor", 3), strict=True):
        assert function.__wrapped__.__closure__[0].cell_contents == held == function.mark
        assert (function.__name__, function.__doc__) == ("inner", "Doc.")
        assert function.__qualname__ == "outer.<locals>.inner" and function.__module__ == __name__
        with pytest.raises(TypeError, match="inner.*parameter x=.*violates"):
            function(1.0, scale=1.0)
        with pytest.raises(TypeError, match="parameter more=.*violates"):
            function(torch.ones(1), "a", scale=1.0)
        with pytest.raises(TypeError, match="parameter scale=.*violates"):
            function(torch.ones(1), scale="a")
    assert functions[0](torch.ones(1), 1, scale=2.0) is None
    for function in functions[1:]:
        assert torch.equal(function(torch.ones(2), scale=2.0), torch.full((2,), 2.0))
        with pytest.raises(TypeError, match="return .*violates"):
            function(torch.ones(1), 1, scale=1.0)


def test_other_annotations_of_the_same_code_are_checked_by_themselves():
    decorated, asked = counting()
    anything, text = (outer(decorated, "text", hint) for hint in (Any, str))
    assert (
        len(asked) == 2
        and anything(torch.ones(1), 1, scale=1.0) == text(torch.ones(1), 1, scale=1.0) == "text"
    )
    with pytest.raises(TypeError, match="return .*violates"):
        text(torch.ones(1), scale=1.0)


def test_what_is_checked_where_it_is_decorated_is_decorated_anew():
    decorated, asked = counting()
    for k in range(2):

        @decorated
        def defaults(x: int = k) -> int:
            return x

        @decorated
        def by_name(x: "int") -> "int":
            return x

        assert defaults() == k
        with pytest.raises(TypeError):
            by_name("a")  # type: ignore[arg-type]
    assert len(asked) == 4


def test_nothing_to_check_is_the_function_itself():
    decorated, _ = counting()

    def function(x: Any) -> Any:
        return x

    assert decorated(function) is function and decorated(function) is function


@pytest.mark.parametrize("first", [True, False])
def test_what_a_function_holds_goes_with_it(first):
    decorated, _ = counting()
    if not first:
        outer(decorated, None)
    held = Held()
    gone = weakref.ref(held)
    function = outer(decorated, held)
    del held
    assert gone() is not None
    del function
    assert gone() is None


def test_the_library_s_are():
    """Were beartype's dict of decorators gone, the suite would be right and slow: here is where that is seen."""
    from beartype._decor import decorcache

    x = torch.randn(2, 3, requires_grad=True)
    plan = DDIM().plan(VP(), UniformT(4, start=0.9, end=0.1))
    seen, plain = [], decorcache.beartype_object  # type: ignore

    def watched(thing, conf):
        seen.append(thing.__qualname__)
        return plain(thing, conf)

    def solved():
        sample(Denoiser(lambda x, t: x.tanh(), VP(), DATA), plan, x, gradient=Checkpoint()).sum().backward()

    solved()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decorcache, "beartype_object", watched)
        solved()
        assert not seen
