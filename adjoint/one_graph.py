"""One graph: a run inside torch.compile, value and gradient, without a break.

What a run is given is looked at while it is traced, by the very checks of any other run, on stand-ins. The plan's
numbers are constants of the graph: it is traced anew where the plan or the denoiser is another object, or a tensor of
another form.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..solvers import GivenNoise, Model, Plan, Prediction, Process
from ..solvers.coefficient_tensor import bound
from ..solvers.instructions import Apply, Evaluate, Instruction
from ..solvers.opening import carried
from ..solvers.per_step import at_step
from ..solvers.program import Bound, Call, Program, prepare
from ..solvers.straight_line import straight_line, traced_prediction
from .arguments import check_arguments
from .choosing.auto import Auto
from .chosen import asked_for, chosen, nothing_requires_grad
from .given import Given
from .replay.rollout import Registers
from .stand_ins import Form, conditioning, form_of, form_of_noise, forms_in, noise_of, stand_in
from .strategies.checkpoint import Checkpoint, Mechanism
from .strategies.direct import Direct
from .strategies.gradient import Gradient
from .strategies.left_out import warn_left_out
from .strategies.truncated import Truncated

ALONE = "compile the network alone: Denoiser(torch.compile(network), ...)"
StrategySettings = tuple[type, tuple[Any, ...]]  # of a strategy: its class, and what is set


def _constant(function: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.compiler.assume_constant_result`, without loading the compiler: two thirds of what an import took."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def in_one_graph(
    denoiser: Model,
    plan: Plan,
    x: Any,
    at: tuple[int, ...],
    *,
    cond: Any,
    noise: Any,
    controls: Tensor | None,
    coefficients: Tensor | None,
    gradient: Gradient | None,
    **outside: bool,
) -> tuple[Tensor, dict[int, Tensor]]:
    """The sample, and the states that the steps `at` open with: what `sample` does where it is traced.

    Under `Direct()` the graph is the loop's. Under `Checkpoint()` every network call is a region, whose activations
    the backward graph makes again.

    Args:
        outside: what only a run outside a graph can do, by the name of the argument, and whether it is asked for.

    Raises:
        ValueError, TypeError: as `sample`, in an error of torch's own that has the words of ours; another strategy
            than these two and a truncation of them, a joint state, a source of noise that cannot be traced.
    """
    registers = x if isinstance(x, dict) else {"x": x}
    ops, applied, strategy = _looked_at(
        denoiser,
        plan,
        getattr(denoiser, "process", None),
        getattr(denoiser, "prediction", None),
        _settings(gradient),
        {name: form_of(value) if isinstance(value, Tensor) else None for name, value in registers.items()},
        forms_in(cond),
        form_of_noise(noise),
        None if controls is None else form_of(controls),
        None if coefficients is None else form_of(coefficients),
        [name for name, asked in outside.items() if asked],
    )
    registers = {name: carried(value) for name, value in registers.items()}
    if coefficients is not None:
        ops = bound(Program(plan, ops), coefficients, registers["x"]).ops
    functions = {k: _function(plan.instructions[k]) for k in applied}
    source = GivenNoise(noise) if isinstance(noise, Tensor) else noise
    cut, within = 0, strategy
    if isinstance(strategy, Truncated):
        cut, within = max(0, plan.steps - strategy.last), strategy.inner
    traced = _Traced(denoiser, cond, controls, coefficients is not None, at, cut)
    evaluate = traced.region if isinstance(within, Checkpoint) else traced.evaluate
    with torch.set_grad_enabled(strategy is not None and torch.is_grad_enabled()):
        out = straight_line(ops, functions, registers, evaluate, source, traced.before)["x"]
    if not (strategy is None or out.requires_grad):
        _reached_nothing(_settings(gradient))
    return out, traced.caught


class _Traced:
    """What happens along a run while it is traced: `Rollout` without what only a run outside a graph needs.

    Args:
        learned: whether the plan's numbers are tensors of the graph.
        at: steps whose opening states `caught` receives.
        cut: the step before which nothing is differentiated.
    """

    def __init__(
        self, model: Model, cond: Any, controls: Tensor | None, learned: bool, at: tuple[int, ...], cut: int
    ) -> None:
        self.model, self.cond, self.controls = model, cond, controls
        self.learned, self.at, self.cut = learned, at, cut
        self.caught: dict[int, Tensor] = {}

    def before(self, step: int, registers: Registers) -> None:
        """Step `step` opens."""
        if self.cut and step <= self.cut:
            registers.update({name: value.detach() for name, value in registers.items()})
        if step in self.at:
            self.caught[step] = registers["x"]
        if self.controls is not None:
            registers["x"] = registers["x"] + self.controls[step]

    def evaluate(self, call: Call, state: Tensor) -> Tensor:
        """One network call."""
        return traced_prediction(self.model, call, state, at_step(self.cond, call.step), self.learned)

    def region(self, call: Call, state: Tensor) -> Tensor:
        """One network call, made once more in the backward pass: of it the graph keeps its state only."""
        return checkpoint(self.evaluate, call, state, use_reentrant=False)


def _function(op: Instruction) -> Any:
    """What an instruction that applies a function applies."""
    assert isinstance(op, Apply | Evaluate)
    return op.fn if isinstance(op, Apply) else op.then


def _settings(gradient: Gradient | None) -> StrategySettings:
    """What `_strategy` makes it again of: an object that is built inside the graph cannot be handed out as it is."""
    if isinstance(gradient, Truncated):
        return Truncated, (gradient.last, _settings(gradient.inner))
    if isinstance(gradient, Checkpoint):
        kept = gradient.offload or gradient.recursive or gradient.memory_budget is not None
        return Checkpoint, (kept or gradient.observe is not None or gradient.mechanism is not Mechanism.AUTO,)
    if isinstance(gradient, Auto):
        return Auto, (
            gradient.memory is not None or gradient.deadline is not None or gradient.calls is not None,
        )
    return type(gradient), ()


def _strategy(settings: StrategySettings) -> Gradient | None:
    """The strategy of these settings. Raises ValueError for one that no graph has room for."""
    kind, given = settings
    if kind is Truncated:
        last, inner = given
        return Truncated(last, _strategy(inner) or Direct())
    if given == (True,):
        raise ValueError(
            f"gradient={kind.__name__}(...): got settings inside torch.compile, where the compiler schedules what is "
            f"kept, expected {kind.__name__}(); leave them out, or {ALONE}"
        )
    if kind not in (Auto, Direct, Checkpoint, type(None)):
        raise ValueError(
            f"gradient={kind.__name__}: got a call inside torch.compile, expected Direct(), Checkpoint(), "
            f"Truncated(K, inner) of these, or None; take one of them, or {ALONE}"
        )
    return None if kind is type(None) else kind()


@_constant
def _looked_at(
    denoiser: Model,
    plan: Plan,
    process: Process | None,
    prediction: Prediction | None,
    settings: StrategySettings,
    registers: dict[str, Form | None],
    cond: list[tuple[bool, Form]],
    noise: Any,
    controls: Form | None,
    coefficients: Form | None,
    outside: list[str],
) -> tuple[tuple[Bound, ...], tuple[int, ...], Gradient | None]:
    """The plan's instructions made ready, those of them that apply a function, and the strategy that a run takes.

    Args:
        process, prediction: the denoiser's, which may be given others: what is made here holds for these.
    """
    if outside:
        raise ValueError(
            f"{outside[0]}: got one inside torch.compile, expected none: nothing comes out of a graph on the way; "
            f"leave it out, or {ALONE}"
        )
    tensors = {name: stand_in(form) for name, form in registers.items() if form is not None}
    if len(tensors) < len(registers):
        raise ValueError(f"x: got a joint state inside torch.compile, expected one tensor (B, ...); {ALONE}")
    gradient = _strategy(settings)
    start = tensors["x"] if tuple(tensors) == ("x",) else tensors
    given = {
        "cond": conditioning(cond),
        "noise": noise_of(noise),
        "controls": None if controls is None else stand_in(controls),
        "coefficients": None if coefficients is None else stand_in(coefficients),
    }
    check_arguments(denoiser, plan, start, **given, gradient=gradient)
    found = Given.of(denoiser, plan, start, **given)
    strategy = chosen(gradient, found)
    if isinstance(strategy, Truncated) and strategy.last < plan.steps:
        left_out = [name for name, value in tensors.items() if value.requires_grad]
        warn_left_out(
            strategy, left_out, f"only the last {strategy.last} of {plan.steps} steps are differentiated"
        )
    ops = tuple(prepare(plan, found.start.model, found.start.registers["x"]).ops)
    applied = [
        k
        for k, op in enumerate(plan.instructions)
        if isinstance(op, Apply) or isinstance(op, Evaluate) and op.then is not None
    ]
    return ops, tuple(applied), strategy


@_constant
def _reached_nothing(settings: StrategySettings) -> None:
    """Raise ValueError where a gradient was asked for."""
    gradient = _strategy(settings)
    if gradient is not None and asked_for(gradient):
        raise nothing_requires_grad(gradient)
