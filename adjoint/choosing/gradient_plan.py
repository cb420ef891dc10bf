"""GradientPlan: the table that a strategy is chosen from."""

import math
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass

from ...solvers.notebook import one_line, table
from ..replay.rollout import Registers, Rollout
from ..strategies.gradient import Gradient
from .forecast import Forecast, Limits, in_bytes, in_seconds
from .measured import outlook
from .outlook import Outlook

HEAD = ("strategy", "time", "peak", "calls", "VJPs", "why not")


@dataclass(frozen=True)
class GradientPlan:
    """What every strategy would take of one run. Prints as a table, in a notebook too.

    Attributes:
        forecasts: a `Forecast` each, the fastest first.
        limits: what the run may take.
    """

    forecasts: tuple[Forecast, ...]
    limits: Limits

    @property
    def best(self) -> Forecast:
        """The fastest that fits.

        Raises:
            ValueError: none fits; the nearest is named.
        """
        fitting = [forecast for forecast in self.forecasts if not self.why_not(forecast)]
        if fitting:
            return min(fitting, key=lambda forecast: forecast.seconds)
        possible = [forecast for forecast in self.forecasts if not forecast.why_not]
        nearest = min(possible, key=self.limits.excess)
        raise ValueError(
            f"Auto: got {self.limits}, which no strategy keeps, expected at least what the nearest takes, "
            f"{_named(nearest.strategy)}: {_taken(nearest)}; raise the limit, or take fewer steps or a smaller batch"
        )

    @property
    def strategy(self) -> Gradient:
        """The fastest that fits. Raises ValueError as `best`."""
        return self.best.strategy

    def why_not(self, forecast: Forecast) -> str:
        """What speaks against it; "" if nothing."""
        return forecast.why_not or self.limits.exceeded(forecast)

    def rows(self) -> list[tuple[str, ...]]:
        """The table's cells, as they are printed."""
        chosen = self.best if any(not self.why_not(each) for each in self.forecasts) else None
        return [
            (
                _named(each.strategy),
                "" if math.isinf(each.seconds) else in_seconds(each.seconds),
                "" if each.memory is None else in_bytes(each.memory),
                str(each.calls),
                str(each.vjps),
                "chosen" if each is chosen else self.why_not(each),
            )
            for each in self.forecasts
        ]

    def __str__(self) -> str:
        rows = [HEAD, *self.rows()]
        widths = [max(len(row[k]) for row in rows) for k in range(len(HEAD) - 1)]
        lines = [
            "  ".join(
                [
                    row[0].ljust(widths[0]),
                    *(cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:], strict=True)),
                    row[-1],
                ]
            ).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, f"limits: {self.limits}"])

    def _repr_html_(self) -> str:
        return table(HEAD, self.rows(), f"limits: {self.limits}")

    def __repr__(self) -> str:
        chosen = [row[0] for row in self.rows() if row[-1] == "chosen"]
        return one_line(
            f"<GradientPlan: {len(self.forecasts)} strategies, {self.limits}, "
            f"{chosen[0] + ' chosen' if chosen else 'none fits'}>"
        )


def planned(
    rollout: Rollout, registers: Registers, limits: Limits, others: Sequence[Gradient] = ()
) -> GradientPlan:
    """The table of `rollout`, measured where it has not been. Raises ValueError where it cannot be."""
    seen = outlook(rollout, registers)
    rows = [*seen.forecasts(limits.memory), *(_other(each, seen, rollout) for each in others)]
    return GradientPlan(tuple(sorted(rows, key=lambda each: each.seconds)), limits)


def _other(strategy: Gradient, seen: Outlook, rollout: Rollout) -> Forecast:
    """Of a strategy whose gradient is its own: by the calls and VJPs that it says, and no more is known."""
    calls, vjps = strategy.cost(rollout.program.plan)
    with_graph = min(calls, vjps)
    seconds = with_graph * seen.cost.graph + vjps * seen.cost.vjp + (calls - with_graph) * seen.cost.forward
    return Forecast(strategy, seconds, None, calls, vjps, "another gradient than the run's, or not measured")


def _named(strategy: Gradient) -> str:
    """The strategy, without the fields that are as they are by default."""
    said = []
    for field in fields(strategy) if is_dataclass(strategy) else ():
        value = getattr(strategy, field.name)
        usual = field.default if field.default_factory is MISSING else field.default_factory()
        if value != usual:
            said.append(f"{field.name}={_named(value) if isinstance(value, Gradient) else value}")
    return f"{type(strategy).__name__}({', '.join(said)})"


def _taken(forecast: Forecast) -> str:
    memory = "" if forecast.memory is None else f"{in_bytes(forecast.memory)}, "
    return f"{memory}{in_seconds(forecast.seconds)}, {forecast.calls} calls"
