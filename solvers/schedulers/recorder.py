"""StepRecorder: a scheduler's own step, played once on unit vectors, writes down its row of a plan.

A step is linear in all that it is given and all that it remembers, clipping apart. Every register and every draw
of noise is a coordinate of one small float64 tensor, which goes through the scheduler in place of the sample; what
comes back are the coefficients, warm-ups, tails and slips included. Clipping is met on the way and becomes an Apply.
"""

import math
from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..instructions import Apply, Combine, Evaluate, Instruction
from ..methods.around.on_data import Clamp
from ..prediction import Prediction
from .learned import LearnedNoise

WIDTH = 96  # coordinates: registers and noises alive at one time
RECENT = 8  # of a history: iPNDM's grows by one a step, and four are read
SHAPE = (1, WIDTH, 1, 1)  # (B, C, H, W): what schedulers expect of a sample
CLAMPS = (torch.clamp, Tensor.clamp, torch.clip, Tensor.clip)
CASTS = (Tensor.to, Tensor.float, Tensor.double)


class StepRecorder(TorchFunctionMode):
    """Collects instructions while a scheduler's code runs under it (`with recorder:`)."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[Instruction] = []
        self.starts: list[int] = []
        self.draws = 0  # noise so far: the k-th draw of the scheduler is slot k
        self.named: dict[int, str] = {}  # coordinate: register
        self.drawn: dict[int, int] = {}  # coordinate: noise slot
        self.increments: list[tuple[float, float, Tensor]] = []
        self.broken: int | None = None  # the first step whose coefficients are not finite

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else None
        if func in CLAMPS and recorded(first):
            low, high = (*args[1:], kwargs.get("min"), kwargs.get("max"))[:2]
            return self.applied(first, Clamp(float(low), float(high)))
        if func in CASTS and recorded(first):
            return first  # a state rounded to float32 on the way is noise, not a coefficient
        if func in (torch.randn, torch.randn_like):
            return self.noise()
        return func(*args, **kwargs)

    def begin(self) -> None:
        """The next instruction opens a step."""
        self.starts.append(len(self.ops))

    def register(self, name: str) -> Tensor:
        """The unit vector of a register."""
        return self._unit(self.named, name)

    def evaluated(self, t: float, want: Prediction) -> Tensor:
        """A network call at "x" and its result."""
        name = f"m{len(self.starts) - 1}"
        self.ops.append(Evaluate((name,), "x", t, want))
        return self.register(name)

    def noise(self) -> Tensor:
        """A fresh draw."""
        self.draws += 1
        return self._unit(self.drawn, self.draws - 1)

    def brownian(self, start: Any, end: Any) -> Tensor:
        """(W(end) - W(start)) / sqrt(|end - start|) of one Brownian motion, as samplers that hold a tree of it ask:
        each time for an interval from where the last one began, or from where it ended.
        """
        low, high = sorted((float(start), float(end)))
        total, free = torch.zeros(SHAPE, dtype=torch.float64), high
        for a, b, unit in self.increments:
            if low <= a and b <= high:
                total, free = total + math.sqrt(b - a) * unit, min(free, a)
        if free > low:
            self.increments = [(low, free, self.noise())] + [
                x for x in self.increments if x[0] >= low and x[1] <= high
            ]
            total = total + math.sqrt(free - low) * self.increments[0][2]
        return total / math.sqrt(high - low)

    def applied(self, value: Tensor, fn: Callable[[Tensor], Tensor]) -> Tensor:
        """fn(value), into a register of its own."""
        name = f"c{len(self.ops)}"
        self.write(name, value)
        self.ops.append(Apply((name,), (name,), fn))
        return self.register(name)

    def write(self, out: str, value: Tensor) -> None:
        """out <- value."""
        row = value.flatten().tolist()
        if self.broken is None and not all(map(math.isfinite, row)):
            self.broken = len(self.starts) - 1
        least = 1e-15 * max(map(abs, row))  # what is left of a difference of equal numbers
        terms = tuple([(c, self.named[k]) for k, c in enumerate(row) if abs(c) > least and k in self.named])
        noise = tuple([(c, self.drawn[k]) for k, c in enumerate(row) if abs(c) > least and k in self.drawn])
        self.ops.append(Combine(out, terms or ((0.0, "x"),), noise))

    def write_learned(self, value: Tensor, bounds: tuple[float, float] | None) -> None:
        """x <- value with its newest noise scaled by what the network's answer says."""
        drawn = next(k for k, slot in self.drawn.items() if slot == self.draws - 1)
        mean = value.clone()
        mean[0, drawn] = 0.0
        self.write("x", mean)
        self.ops.append(Combine("xi", ((0.0, "x"),), ((1.0, self.draws - 1),)))
        srcs = ("x", f"m{len(self.starts) - 1}", "xi")
        self.ops.append(Apply(("x",), srcs, LearnedNoise(bounds)))

    def keep(self, owner: object) -> None:
        """Every tensor that `owner` remembers gets a register, so that the next rows stay short."""
        made: list[tuple[Tensor, Tensor]] = []  # the same value remembered twice is one register
        for name, value in vars(owner).items():
            if isinstance(value, list) and any(map(recorded, value)):
                setattr(owner, name, [self._kept(each, name, made) for each in value[-RECENT:]])
            elif recorded(value):
                setattr(owner, name, self._kept(value, name, made))

    def _kept(self, value: Any, name: str, made: list[tuple[Tensor, Tensor]]) -> Any:
        if not recorded(value):
            return value
        for old, unit in made:
            if torch.equal(old, value):
                return unit
        held = value.flatten().nonzero().flatten().tolist()
        if len(held) == 1 and float(value.sum()) == 1.0 and self.named.get(held[0], "x") != "x":
            return value  # a register already, and none that the next step writes to
        out = f"{name.strip('_')}_{len(self.starts) - 1}"
        while out in self.named.values():
            out += "'"
        self.write(out, value)
        made.append((value, self.register(out)))
        return made[-1][1]

    def free(self, owner: object, *others: Tensor) -> None:
        """Forget the coordinates that nothing remembers."""
        held = [*others, *[unit for _, _, unit in self.increments]]
        for value in vars(owner).values():
            held += [each for each in (value if isinstance(value, list) else [value]) if recorded(each)]
        alive = {k for value in held for k in value.flatten().nonzero().flatten().tolist()}
        alive = alive if self.broken is None else set()
        for known in (self.named, self.drawn):
            for k in known.keys() - alive:
                del known[k]

    def _unit(self, known: dict[int, Any], name: Any) -> Tensor:
        free = next(k for k in range(WIDTH) if k not in self.named and k not in self.drawn)
        known[free] = name
        out = torch.zeros(SHAPE, dtype=torch.float64)
        out[0, free] = 1.0
        return out


def recorded(value: Any) -> TypeGuard[Tensor]:
    """Whether it is made of coordinates."""
    return isinstance(value, Tensor) and tuple(value.shape) == SHAPE
