"""Search: walks a batch from noise to data by steps that an embedded pair accepts."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType, peek_interpreter_stack
from torch.utils._pytree import tree_leaves

from ...broadcast import per_sample
from ...loop import predict
from ...model import Model
from ...path import Path, PathNoise
from ...per_step import PerStep
from ...prediction import Prediction, conversion
from ...process import as_time
from ...program import Call
from .embedded import EmbeddedPair, Node
from .step_control import StepControl

SHORTER = 0.1  # of a step on a path, where that saves draws
SLACK = 1e-3  # a step that leaves less than this share of itself to the end goes to the end


@dataclass(frozen=True, eq=False)
class Walked:
    """x at the end, the times of each sample, its attempts and its network calls, and those of the batch."""

    x: Tensor
    grids: tuple[Tensor, ...]
    attempts: Tensor
    calls: Tensor
    batch_calls: int


@dataclass(frozen=True, eq=False)
class Search:
    """See `adapt`. `first` and `least` are shares of the way, or with `together` (one grid for all, the worst error
    deciding) in the units of the pair's coordinate.
    """

    model: Model
    pair: EmbeddedPair
    start: float
    end: float
    rtol: float
    atol: float
    control: StepControl
    first: float
    least: float
    most: int
    cond: Any
    path: Path | None
    told: Callable[[int, Tensor, Tensor], None] | None
    asker: str
    together: bool = False

    def run(self, x: Tensor) -> Walked:
        """From x (B, ...) at `start`."""
        self._check(x)
        with torch.no_grad():
            return self._walked(x)

    def _check(self, x: Tensor) -> None:
        level = peek_interpreter_stack()
        if level is not None and level.key() == TransformType.Vmap:
            raise ValueError(
                f"{self.asker}: got a call under torch.func.vmap, expected plain tensors, whose numbers say how many "
                "steps there are; pass one batch: its samples have steps of their own"
            )
        process = self.model.process
        for t in (self.start, self.end):
            if not process.t_min <= t <= process.t_max:
                raise ValueError(
                    f"{self.asker}: got t={t:g}, expected start and end in [{process.t_min:g}, {process.t_max:g}] of "
                    f"{process}; move it there"
                )
        ends = process.lam(as_time((self.start, self.end))).tolist()
        if not all(map(math.isfinite, ends)) or ends[0] == ends[1]:
            raise ValueError(
                f"{self.asker}: got lambda {ends[0]:g} at t={self.start:g} and {ends[1]:g} at t={self.end:g}, "
                "expected two different finite ones; start and end where alpha and sigma are positive"
            )
        if any(isinstance(leaf, PerStep) for leaf in tree_leaves(self.cond)):
            raise ValueError(
                f"{self.asker}: got PerStep conditioning, expected one for all steps, whose number is not known yet; "
                "pass it where the plan is run"
            )
        if self.pair.stochastic and ends[0] > ends[1]:
            raise ValueError(
                f"{self.asker}: got {self.pair} from t={self.start:g} to {self.end:g}, expected from noise to data; "
                "noise is only added while denoising: take AdaptiveDPM() to encode"
            )
        if self.pair.stochastic and self.path is None:
            raise ValueError(
                f"{self.asker}: got no noise for {self.pair}, expected a path, which a rejected step is tried again "
                f"on; pass noise=Brownian(seed, low={ends[0]:.3g}, high={ends[1]:.3g}, depth=30)"
            )
        if self.path is not None:
            self.path.width(*sorted(ends))
            self.path.check(x)
        self.model.check_times(as_time((self.start, self.end)))

    def _walked(self, x: Tensor) -> Walked:
        pair, process, B = self.pair, self.model.process, len(x)
        ends = pair.position(process, as_time((self.start, self.end)))
        way = float(ends[1] - ends[0])
        unit = 1.0 if self.together else abs(way)
        grids, asked = [[self.start] for _ in range(B)], 0
        # where each sample is, and from where to where its next attempt leads
        at = stand = aim = ends[:1].expand(B)
        h = torch.full((B,), self.first * unit, dtype=torch.float64)
        done, fresh = torch.zeros(B, dtype=torch.bool), torch.ones(B, dtype=torch.bool)
        attempts, calls = torch.zeros(B, dtype=torch.long), torch.zeros(B, dtype=torch.long)
        before, here, past = x, None, torch.empty(B, 2)

        def ask(state: Tensor, t: Tensor, want: Prediction) -> Tensor:
            nonlocal asked
            a, b = (
                per_sample(c.to(state), state) for c in conversion(self.model.prediction, want, process, t)
            )
            asked += 1
            return predict(self.model, Call(asked - 1, attempt, t.to(state), a, b), state, self.cond)

        for attempt in range(self.most):
            left = (ends[1] - at).abs()
            step = torch.where(left <= (1 + SLACK) * h, left, h)
            # samples that have arrived repeat their last step, whose outcome is dropped
            stand = torch.where(done, stand, at)
            aim = torch.where(done, aim, at + math.copysign(1.0, way) * step)
            aim = torch.where(step == left, ends[1], self._within(at, aim))
            start, end = (Node(process, self._times(ends, u)) for u in (stand, aim))
            here = ask(x, start.t, pair.want) if here is None else here
            low, high = pair.attempt(ask, x, here, start, end, self._increment(start, end, x))
            error = pair.error(x, low, high, before, self.rtol, self.atol).double().cpu()
            error = error.max().expand(B) if self.together else error
            self._check_finite(error, done, end.t)
            past = past if attempt else error[:, None].expand(B, 2)
            accepted, factor = self.control(error, past, pair.order)
            attempts += ~done
            calls += torch.where(done, 0, pair.calls - (~fresh).long())
            fresh = accepted & ~done
            for b in fresh.nonzero().flatten().tolist():
                grids[b].append(float(end.t[b]))
            taken = per_sample(fresh.to(x.device), x)
            x, before = torch.where(taken, high, x), torch.where(taken, low, before)
            here = None if bool(fresh.any()) else here
            past = torch.where(fresh[:, None], torch.stack([error, past[:, 0]], 1), past)
            at = torch.where(fresh, aim, at)
            done = done | (at == ends[1])
            if self.told is not None:
                self.told(attempt, self._times(ends, at), x.clone())
            if bool(done.all()):
                tables = tuple([torch.tensor(grid, dtype=torch.float64) for grid in grids])
                return Walked(x, tables, attempts, calls, asked)
            h = torch.where(done, h, step * factor)
            self._check_step(h, done, unit, self._times(ends, at))
        late = int((~done).int().argmax())
        raise RuntimeError(
            f"{self.asker}: got {self.most} attempts at t={grids[late][-1]:.4g}, expected the end t={self.end:g} "
            f"before; loosen rtol and atol, or raise most ({asked} network calls were made)"
        )

    def _times(self, ends: Tensor, position: Tensor) -> Tensor:
        """Of positions, the two ends exactly."""
        t = as_time(self.pair.time(self.model.process, position))
        t = torch.where(position == ends[0], self.start, t)
        return torch.where(position == ends[1], self.end, t)

    def _within(self, position: Tensor, aim: Tensor) -> Tensor:
        """The aims, or points up to SHORTER nearer where the path is had at less cost."""
        if self.path is None or not self.pair.stochastic:
            return aim
        process, pair = self.model.process, self.pair
        nearest = process.lam(pair.time(process, position + (1 - SHORTER) * (aim - position))).tolist()
        farthest = process.lam(pair.time(process, aim)).tolist()
        lam = [self.path.within(*both) for both in zip(nearest, farthest, strict=True)]
        return pair.position(process, process.time(torch.tensor(lam, dtype=torch.float64)))

    def _increment(self, start: Node, end: Node, x: Tensor) -> Tensor | None:
        """The path's unit increment of each sample's step."""
        if self.path is None or not self.pair.stochastic:
            return None
        return PathNoise(self.path, ((tuple(start.lam.tolist()), tuple(end.lam.tolist())),))(0, x)

    def _check_finite(self, error: Tensor, done: Tensor, t: Tensor) -> None:
        wrong = ~(error.isfinite() | done)
        if bool(wrong.any()):
            b = int(wrong.int().argmax())
            raise FloatingPointError(
                f"{self.asker}: got NaN or infinity in sample {b} at t={float(t[b]):.4g}, expected finite values; "
                "check x, and the network there"
            )

    def _check_step(self, h: Tensor, done: Tensor, unit: float, t: Tensor) -> None:
        short = (h < self.least * unit) & ~done
        if bool(short.any()):
            b = int(short.int().argmax())
            raise RuntimeError(
                f"{self.asker}: got a step of {float(h[b]) / unit:.3g} of the way in sample {b} at "
                f"t={float(t[b]):.4g}, expected at least {self.least:g}; loosen rtol and atol, "
                "or look at the network there"
            )
