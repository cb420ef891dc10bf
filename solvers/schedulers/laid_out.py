"""LaidOut: what a pipeline's loop goes by, once `set_timesteps` has said how long it is."""

from dataclasses import dataclass, replace
from statistics import mode
from typing import Any

from ..compiler import Method
from ..grid import Times
from ..noise import Noise
from ..process import EDM, as_time
from .corrected import limited
from .found import SchedulerPlan
from .known import convention_of
from .playing import Playing
from .stretches import Stretch, Stretches


@dataclass(frozen=True, eq=False)
class Asked:
    """What the user asked for."""

    method: Method
    grid: Times | None
    noise: Noise | None


@dataclass(frozen=True, eq=False)
class LaidOut:
    """The loop's turns.

    Attributes:
        found: the replaced scheduler's loop, with the method's plan in place of its own.
        method: with the clipping that the configuration asks for.
        run: the plan from where it begins.
        calls: of every entry of `timesteps`, those before it begins included.
        order: network calls of most steps, by which pipelines count.
    """

    found: SchedulerPlan
    method: Method
    run: Stretches
    calls: tuple[Stretch, ...]
    order: int

    @classmethod
    def of(cls, asked: Asked, s: Any) -> "LaidOut":
        """Of a scheduler on the CPU whose times are set, and whose loop may be played."""
        convention = convention_of(s)
        if len(convention.labels(s)) != len(s.timesteps):
            raise ValueError(
                f"as_scheduler: got {type(s).__name__}, whose pipelines leave out some of its timesteps, expected a "
                "turn for each; take another scheduler"
            )
        times = convention.nodes(s)
        nodes = [t for k, t in enumerate(times) if not k or t != times[k - 1]]
        method = limited(asked.method, s.config)
        found = Playing(s, convention, {}).found(0)
        if asked.grid is None:
            plan = method.along(found.process, nodes)
        else:
            plan = method.plan(found.process, asked.grid)
            if plan.steps != len(nodes) - 1:
                raise ValueError(
                    f"num_inference_steps: got {len(nodes) - 1}, expected the grid's {plan.steps}; ask for as many"
                )
        run, scale = Stretches.of(plan, found), found.scale
        if isinstance(found.process, EDM):
            scale *= float(as_time(plan.times[0])) / nodes[0]  # 1 but for a grid that starts elsewhere
        calls = [sum(each.call.step == k for each in run.calls) for k in range(plan.steps)]
        return cls(
            replace(found, plan=plan, scale=scale), method, run, run.calls, mode([n for n in calls if n])
        )

    def begun(self, k: int) -> "LaidOut":
        """The same from call k on, as image-to-image pipelines begin: the method's plan from its node.

        Raises:
            ValueError: a call that is not at a node, or from which the method would make other calls.
        """
        if not k:
            return self
        plan, level = self.found.plan, self.calls[k].level
        if level not in plan.times[:-1]:
            raise ValueError(
                f"begin: got network call {k}, which lies inside step {self.calls[k].call.step} of {plan.name}, "
                "expected one at a node; choose a strength or number of steps that gives one"
            )
        rest = as_time(plan.times[plan.times.index(level) :])  # type: ignore[arg-type]
        run = Stretches.of(self.method.along(plan.process, rest), self.found)
        if [each.label for each in run.calls] != [each.label for each in self.calls[k:]]:
            raise ValueError(
                f"begin: got {plan.name} from network call {k}, from where it would make {len(run.calls)} calls, "
                f"expected the {len(self.calls) - k} that are left of the whole run; take a method without a start of "
                "its own"
            )
        return replace(self, run=run, calls=(*self.calls[:k], *run.calls))
