"""Nodes: a run that remembers its states at the grid's nodes, for adjoints that are not the run's own transpose."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...solvers import DATA, NOISE, Call, Combine, Evaluate, GivenNoise, Plan
from ...solvers.prediction import conversion
from ...solvers.program import BoundEvaluate, Program, prepare
from ..fingerprint import changed, drift, mark
from ..gradient import Gradient
from ..rollout import Rollout
from ..sensitivity import Sensitivity
from ..tape import Tape
from .regrid import Shares, Spread
from .resolve import Flow, Retraced
from .states import States, between, chosen, reintegrated

# steps of the adjoint whose table is held at a time: that of a whole run would take memory that grows with N
PIECE = 64


class Nodes(Tape):
    """A run that records x, and the data prediction there, when each step opens."""

    def __init__(
        self, rollout: Rollout, registers: dict[str, Tensor], states: States, steps: int | None
    ) -> None:
        super().__init__(rollout, registers)
        self.states, plan = states, rollout.program.plan
        self.begin = (
            rollout.program.ops[0].step if rollout.program.ops else 0
        )  # a truncated program starts later
        self.times = [float(t) for t in plan.times[self.begin :] if not isinstance(t, tuple)]
        if len(self.times) != plan.steps - self.begin + 1:
            raise ValueError(
                f"a continuous adjoint: got a plan with one grid for each of {plan.batch} samples, expected "
                "one grid; use Checkpoint()"
            )
        if any(later >= sooner for sooner, later in zip(self.times, self.times[1:], strict=False)):
            raise ValueError(
                f"a continuous adjoint: got a grid from t={self.times[0]:g} to {self.times[-1]:g}, expected "
                "one that falls from noise to data; use Checkpoint()"
            )
        self.first_calls = _first_calls(rollout.program) if states is States.INTEGRATED else {}
        if states is States.INTEGRATED and len(self.first_calls) < len(self.times) - 1:
            raise ValueError(
                f"States.INTEGRATED: got {plan.name}, which does not predict at every node; use "
                "States.RECORDED"
            )
        self.at, self.index = chosen(plan.process, self.times, steps)
        self.shares = Shares(plan.process, self.times, self.at)
        self.strict = len(self.at) < len(self.times) or plan.nfe > plan.steps
        self.nodes: list[Tensor] = []
        self.predictions: list[Tensor] = []

    def execute(self, registers: dict[str, Tensor]) -> dict[str, Tensor]:
        def before(step: int, live: dict[str, Tensor]) -> None:
            self.rollout.before(step, live)
            if self.states is not States.RESOLVED:
                self.nodes.append(live["x"])

        done = self.rollout.execute(registers, self._evaluate, before=before)
        self.nodes.append(done["x"])
        return done

    def _evaluate(self, call: Call, state: Tensor) -> Tensor:
        out = super()._evaluate(call, state)
        if len(self.around) == 1:
            self.sign = mark(out)
        if call.index in self.first_calls:
            a, b = self.first_calls[call.index]
            self.predictions.append(a * state + b * out)
        if any(around.cpu is not None or around.cuda is not None for around in self.around[-1:]):
            raise ValueError(
                "a continuous adjoint evaluates the network elsewhere than the run did: got a network that "
                "draws random numbers, expected a deterministic one; call eval(), or use Checkpoint()"
            )
        return out

    def record(self, call: Call, state: Tensor) -> None:
        if len(self.around) == 1:
            self.opening = call, state

    def backward(self, saved: Sequence[Tensor], end: Tensor, jumps: dict[int, Tensor]) -> list[Tensor | None]:
        self.snapshot.check()
        call, state = self.opening
        # the states of the backward pass are not the run's: only this call, once more, tells whether the
        # network is as it was
        with self.around[0].restored(), torch.no_grad():
            if not drift(self.sign, mark(self.rollout.evaluate(call, state))) <= 1:
                raise changed(f"network call {call.index} of step {call.step}")
        return super().backward(saved, end, jumps)

    def kept(self) -> list[Tensor]:
        kept = [*self.nodes, *self.predictions]
        self.nodes, self.predictions = [], []
        return kept

    def fresh(self) -> Spread:
        into = Spread(self.rollout, self.sensitivity.shared)
        into.shares, into.begin, into.index = self.shares, self.begin, self.index
        return into

    def path(self, saved: Sequence[Tensor]) -> list[Tensor]:
        """The states at the times `at`, for the backward pass; only the last one if they are to be re-solved."""
        count = len(self.times)
        if self.states is States.RESOLVED:
            return [saved[0]]
        if self.states is States.RECORDED:
            assert self.index is not None
            return [saved[k] for k in self.index]
        process = self.rollout.program.plan.process
        path = reintegrated(process, self.times, saved[:count], saved[count:])
        if self.index is not None:
            return [path[k] for k in self.index]
        return between(process, self.times, path, saved[count:], self.at)

    def refuse_decoupled(self, strategy: Gradient, steps: int | None) -> None:
        """Refuse what an adjoint on another grid than the run's cannot give."""
        n, rollout = len(self.times) - 1, self.rollout
        if steps is None or steps == n:
            return
        lost = set(rollout.at) - {self.begin + k for k in self.index or ()}
        if lost:
            raise ValueError(
                f"{strategy}: got losses at the states of steps {sorted(lost)}, expected steps that the "
                f"{steps} intervals of the adjoint meet; use steps=None"
            )
        if rollout.controls is not None and rollout.controls.requires_grad:
            raise ValueError(
                f"{strategy}: got controls that require grad, one for each of {n} steps, expected steps={n} "
                "or None"
            )
        if isinstance(rollout.noise, GivenNoise) and rollout.noise.values.requires_grad:
            raise ValueError(
                f"{strategy}: got noise that requires grad, one for each of {n} steps, expected steps={n} or "
                "None"
            )
        if rollout.program.plan.stochastic and self.states is States.RESOLVED:
            raise ValueError(
                f"{strategy}: got re-solved states of a stochastic run of {n} steps, expected steps={n} or "
                "None: the noise is known step by step only"
            )
        if steps > n and self.states is States.RECORDED:
            raise ValueError(
                f"{strategy}: got steps={steps} for a run of {n} with recorded states, expected at most {n}; "
                "use States.RESOLVED or INTEGRATED"
            )

    def resolver(self) -> "Flow | Retraced | None":
        """What solves for the states backwards, where they were not kept."""
        plan = self.rollout.program.plan
        if self.states is not States.RESOLVED:
            return None
        return (
            Retraced(plan, self.rollout.noise, self.begin) if plan.stochastic else Flow(plan.process, self.at)
        )

    def noise_calls(self, times: Sequence[float], like: Tensor) -> list[Call]:
        """Network calls for the noise prediction at `times`."""
        process = self.rollout.program.plan.process
        ops = tuple(Evaluate((f"E{k}",), "x", t, NOISE) for k, t in enumerate(times))
        probe = Plan("nodes", process, tuple(times), ops, tuple(range(len(ops))), 1, False)
        return list(prepare(probe, self.rollout.model, like).calls())

    def injected(self, step: int, cotangent: Tensor, into: Sensitivity) -> None:
        """Gradients of the noise that step `step` of the run added to the state."""
        for op in self.rollout.program.plan.step(step):
            if isinstance(op, Combine) and op.out == "x":
                for c, slot in op.noise:
                    into.noise(slot - self.begin, cotangent, c)  # type: ignore[arg-type]

    def _again(self, end: Tensor, jumps: dict[int, Tensor]) -> list[Tensor | None]:
        raise RuntimeError(
            "a continuous adjoint cannot be differentiated once more: got create_graph=True; use Direct(), "
            "Checkpoint() or Reversible()"
        )


def _first_calls(program: Program) -> dict[int, tuple[Tensor, Tensor]]:
    """{index of the call at its step's node: how its output becomes a data prediction}."""
    found, plan, steps = {}, program.plan, set()
    for item in program.ops:
        if (
            isinstance(item, BoundEvaluate)
            and item.step not in steps
            and item.op.t == plan.times[item.step]
            and item.op.src == "x"
        ):
            steps.add(item.step)
            found[item.call.index] = conversion(item.op.want, DATA, plan.process, item.op.t)  # type: ignore[arg-type]
    return found
