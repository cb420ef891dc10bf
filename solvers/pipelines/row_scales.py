"""A number of a pipeline's call, a guidance scale, that is another for each sample."""

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils._pytree import register_pytree_node

from ..broadcast import per_sample

Number = int | float


@dataclass(frozen=True, eq=False)
class RowScales:
    """Stands for a number where a pipeline computes with it: s (B,), as far as that is what the pipeline does with its
    samples one by one,

        out = uncond + s (cond - uncond),

    that is sums and products with numbers, and products with a tensor that has a row for each sample. A comparison
    must be answered alike by all rows. Everything else is refused.

    Attributes:
        name: of the argument. values: (B,).
        whole: numbers of the loop's state; None before the loop. A product with half of them or fewer is none by
            sample, whatever its first size: some pipelines guide one sample after the other (others some channels).
    """

    name: str
    values: Tensor
    whole: int | None = None

    def refused(self, does: str) -> NoReturn:
        """Raise for what has no meaning sample by sample, or is not known to have one."""
        raise ValueError(
            f"{self.name}: got one for each of {len(self.values)} samples, expected one for all: the pipeline {does}; "
            "pass one number, or sample them apart"
        )

    def _with(self, by: Callable[[Any, Any], Tensor], other: Any, turned: bool = False) -> Any:
        if isinstance(other, RowScales):
            return replace(self, values=by(self.values, other.values))
        if isinstance(other, Tensor) and other.ndim:
            self._check_rows(other, by is operator.mul)
            return (per_sample(self.values, other) * other).to(other.dtype)  # as a number would: not widened
        if not isinstance(other, Number | Tensor):
            return NotImplemented
        return replace(self, values=by(other, self.values) if turned else by(self.values, other))

    def _check_rows(self, other: Tensor, product: bool = True) -> None:
        whole = self.whole is not None and 2 * other.numel() > self.whole
        if not product or not whole or len(other) != len(self.values):
            self.refused(
                f"takes it together with a tensor {tuple(other.shape)}, which is no product by sample"
            )

    def between(self, start: Tensor, end: Tensor) -> Tensor:
        """start + s (end - start), as `torch.lerp`."""
        self._check_rows(start)
        return torch.lerp(start, end, per_sample(self.values, start).to(start.dtype))

    def __mul__(self, other: Any) -> Any:
        return self._with(operator.mul, other)

    def __add__(self, other: Any) -> Any:
        return self._with(operator.add, other)

    def __sub__(self, other: Any) -> Any:
        return self._with(operator.sub, other)

    def __rsub__(self, other: Any) -> Any:
        return self._with(operator.sub, other, turned=True)

    def __neg__(self) -> "RowScales":
        return replace(self, values=-self.values)

    __rmul__, __radd__ = __mul__, __add__

    def _asked(self, by: Callable[[Any, Any], Any], other: Any, sign: str) -> bool:
        answers = by(self.values.detach(), other)
        if not isinstance(answers, Tensor) or answers.shape != self.values.shape:
            self.refused(f"asks whether it is {sign} something that is no number")
        if bool(answers.any()) != bool(answers.all()):
            self.refused(f"asks whether it is {sign} {other}, which some are and others are not")
        return bool(answers.all())

    def __gt__(self, other: Any) -> bool:
        return self._asked(operator.gt, other, ">")

    def __ge__(self, other: Any) -> bool:
        return self._asked(operator.ge, other, ">=")

    def __lt__(self, other: Any) -> bool:
        return self._asked(operator.lt, other, "<")

    def __le__(self, other: Any) -> bool:
        return self._asked(operator.le, other, "<=")

    def __eq__(self, other: object) -> bool:
        return other is not None and self._asked(operator.eq, other, "==")

    def __ne__(self, other: object) -> bool:
        return other is None or self._asked(operator.ne, other, "!=")

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        return self != 0

    def __float__(self) -> float:
        self.refused("makes a number of it")

    def __len__(self) -> int:
        self.refused("makes a tensor of it, as of a scale that its network is told")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        self.refused(f"asks for its `{name}`")

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        swapped = {
            Tensor.mul: operator.mul, Tensor.__mul__: operator.mul, Tensor.__rmul__: operator.mul,
            torch.mul: operator.mul, Tensor.add: operator.add, Tensor.__add__: operator.add,
        }  # fmt: skip
        if function in swapped and len(args) == 2 and not kwargs:
            first, second = args
            mine, other = (first, second) if isinstance(first, RowScales) else (second, first)
            return mine._with(swapped[function], other)
        weighing = function in (torch.lerp, Tensor.lerp) and len(args) == 3 and isinstance(args[2], RowScales)
        if weighing and not kwargs:
            return args[2].between(*args[:2])
        found = next((each for each in args if isinstance(each, RowScales)), None)
        if found is None:
            raise ValueError(
                "guidance_scale: got one for each sample, expected one for all; sample them apart"
            )
        return found.refused(f"gives it to torch's `{getattr(function, '__name__', function)}`")


# trees of a loop's variables are told apart into tensors: these have one
register_pytree_node(
    RowScales,
    lambda scales: ([scales.values], (scales.name, scales.whole)),
    lambda values, told: RowScales(told[0], next(iter(values)), told[1]),
)


def by_row(name: str, default: Any, value: Any, batch: int | None) -> Any:
    """The value of an argument of a pipeline's call: where the call expects a number and has been given (R,), one for
    each sample, R = `batch` or a divisor of it (several samples of each prompt); else itself.
    """
    number = isinstance(default, Number) and not isinstance(default, bool)
    if not number and not (default is None and "scale" in name):
        return value
    if not isinstance(value, Tensor) or value.numel() < 2:
        return value
    rows = len(value) if value.ndim else 1
    if value.ndim != 1 or (batch is not None and batch % rows):
        raise ValueError(
            f"{name}: got {tuple(value.shape)}, expected one number, or one for each of {batch or 'the'} samples; "
            "pass a tensor (B,)"
        )
    return RowScales(name, value if batch is None else value.repeat_interleave(batch // rows))


def in_loop(variables: dict[str, Any], state: Tensor) -> dict[str, Any]:
    """The variables of a loop over `state`, scales among them told its size."""
    return {
        name: replace(value, whole=state.numel()) if isinstance(value, RowScales) else value
        for name, value in variables.items()
    }


@contextmanager
def computing(arguments: Mapping[str, Any]) -> Iterator[None]:
    """While a pipeline computes with them: an error that speaks of a `RowScales` speaks of the argument."""
    try:
        yield
    except (TypeError, RuntimeError) as error:
        rows = [each for each in arguments.values() if isinstance(each, RowScales)]
        if rows and RowScales.__name__ in str(error):
            try:
                rows[0].refused(f"cannot compute with one for each ({error})")
            except ValueError as said:
                raise said from error
        raise
