"""`sample`: from noise to sample, with gradients that reach everything that went in."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from tqdm.auto import tqdm

from ..solvers import Call, GivenNoise, Model, Noise, Plan
from ..solvers import coefficients as numbers_of
from ..solvers.coefficient_tensor import bound
from ..solvers.loop import entry
from ..solvers.program import prepare
from .auto import Auto
from .bound_model import BoundModel
from .checkpoint import Checkpoint
from .cond import PerStep, check_steps, leaves
from .direct import Direct
from .gradient import Gradient
from .rollout import Rollout
from .transforms import bare, finite, transform
from .truncated import Truncated

Callback = Callable[[int, Any, Tensor], None]


def sample(
    denoiser: Model,
    plan: Plan,
    x: Tensor | dict[str, Tensor],
    *,
    cond: Any = None,
    noise: Noise | Tensor | None = None,
    controls: Tensor | None = None,
    coefficients: Tensor | None = None,
    gradient: Gradient | None = Auto(),
    callback: Callback | None = None,
    progress: bool = False,
) -> Tensor:
    """Run `plan` from state x and return the sample; `loss(sample).backward()` reaches every tensor that went in.

    Args:
        denoiser: network + process + prediction; its process must be the plan's.
        plan: from `method.plan(denoiser.process, grid)`.
        x: (B, ...) state at the plan's first time, or the registers that `plan.inverse()` starts from. Half
            precision is carried as float32.
        cond: what the network takes as third argument: nested dicts, lists and tuples of tensors;
            `PerStep(values)` gives step k values[k].
        noise: for stochastic plans: `Addressed(seed)`, or a tensor (slots, B, ...) that receives its
            gradient.
        controls: (N, B, ...) added to the state at the start of each step: x_k <- x_k + controls[k].
        coefficients: (K,) the plan's numbers as `solvers.coefficients` lists them, in place of its own: they
            receive their gradient (by regions under `Checkpoint`); `solvers.compiled` makes them functions of
            times or parameters.
        gradient: a strategy; by default `Checkpoint()` where something requires grad; None samples under
            no_grad.
        callback: called with (k, t_k, x_k detached) for k = 0 .. N.
        progress: show a progress bar over the steps.

    Returns:
        (B, ...) in x's dtype, float32 at least.

    Raises:
        ValueError: anything that does not fit, before the first network call: process, batch, noise,
            controls, cond, or a strategy where nothing requires grad. FloatingPointError: a sample that is
            not finite; the step is named.

    Cost: plan.nfe network calls, and the strategy's for the backward pass.
    """
    return _run(denoiser, plan, x, (), cond, noise, controls, coefficients, gradient, callback, progress)[0]


def trajectory(
    denoiser: Model,
    plan: Plan,
    x: Tensor | dict[str, Tensor],
    at: Sequence[int],
    *,
    cond: Any = None,
    noise: Noise | Tensor | None = None,
    controls: Tensor | None = None,
    coefficients: Tensor | None = None,
    gradient: Gradient | None = Auto(),
    callback: Callback | None = None,
    progress: bool = False,
) -> list[Tensor]:
    """As `sample`, for losses on states along the way: the states at nodes `at`, 0 (x itself) to N (the sample).

    Each is the state before the control of its step, with gradients under every strategy; a continuous
    adjoint jumps there.

    Raises:
        ValueError: as `sample`; a node that the plan does not have.
    """
    if not at or not all(0 <= k <= plan.steps for k in at):
        raise ValueError(f"at: got {list(at)}, expected nodes between 0 and {plan.steps}")
    inner = tuple(sorted({k for k in at if k < plan.steps}))
    out, caught = _run(
        denoiser, plan, x, inner, cond, noise, controls, coefficients, gradient, callback, progress
    )
    return [caught[k] if k < plan.steps else out for k in at]


def _run(
    denoiser: Model,
    plan: Plan,
    x: Tensor | dict[str, Tensor],
    at: tuple[int, ...],
    cond: Any,
    noise: Noise | Tensor | None,
    controls: Tensor | None,
    coefficients: Tensor | None,
    gradient: Gradient | None,
    callback: Callback | None,
    progress: bool,
) -> tuple[Tensor, dict[int, Tensor]]:
    registers: dict[str, Tensor] = {name: _ordinary(value) for name, value in entry(plan, x).items()}
    for name, value in registers.items():
        _check_state(value)
        if value.dtype in (torch.float16, torch.bfloat16):
            registers[name] = value.float()
    x = registers["x"]
    source = GivenNoise(_ordinary(noise)) if isinstance(noise, Tensor) else noise
    controls = None if controls is None else _ordinary(controls)
    _check_noise(plan, source, x)
    cond = tree_map(_ordinary, cond)  # a copy: the caller may fill his dict anew before the backward pass
    scheduled = check_steps(cond, plan.steps)
    if controls is not None and controls.shape != (plan.steps, *x.shape):
        raise ValueError(
            f"controls: got shape {tuple(controls.shape)}, expected {(plan.steps, *x.shape)}: one per step"
        )
    numbers = _check_coefficients(plan, denoiser, coefficients)
    visible = [
        *numbers,
        *registers.values(),
        *leaves(cond),
        *([controls] if controls is not None else []),
        *denoiser.parameters(),
        *([source.values] if isinstance(source, GivenNoise) else []),
    ]
    around = transform()
    if around and not (gradient is None or isinstance(gradient, Direct)):
        raise ValueError(
            f"gradient={gradient}: got {around}, expected plain reverse mode; use gradient=Direct(), or None "
            "to sample only"
        )
    samples = gradient is not None and gradient.samples
    explicit = gradient is not None and not samples and not isinstance(gradient, Auto) and not around
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in visible)
    # a bare callable may capture tensors that nobody declared, a transform hides what it differentiates: the
    # run tells
    opaque = (
        bool(around)
        or torch.is_grad_enabled()
        and not isinstance(getattr(denoiser, "network", None), torch.nn.Module)
    )
    if explicit and not wanted and not opaque:
        raise ValueError(_nothing(gradient))
    if isinstance(gradient, Truncated) and gradient.last < plan.steps and wanted:
        _check_truncated(
            gradient, [t for t in visible[len(registers) + len(numbers) :] if t.requires_grad], plan, opaque
        )
    program = prepare(plan, denoiser, x)
    if coefficients is not None:
        program = bound(program, coefficients, x)
    bar = tqdm(total=plan.steps, disable=not progress)

    def watch(step: int, state: Tensor) -> None:
        if callback is not None:
            callback(step, plan.times[step], state.detach())
        if step:
            bar.update()

    rollout = Rollout(program, BoundModel(denoiser), cond, scheduled, source, controls, watch, at)
    with bar:
        if gradient is None or not (wanted or opaque or samples):
            with torch.no_grad():
                out = rollout.execute(dict(registers))["x"]
        else:
            strategy = Checkpoint() if isinstance(gradient, Auto) else gradient
            out = strategy.run(rollout, dict(registers))["x"]
        bar.update()
    if callback is not None:
        callback(plan.steps, plan.times[-1], out.detach())
    if explicit and not out.requires_grad:
        raise ValueError(_nothing(gradient))
    if not finite(out):
        _name_the_step(rollout, registers)
    # the node around the run holds the rollout: a rollout that holds the node's outputs would never be freed, since
    # the collector does not see through autograd's graph
    caught = dict(rollout.caught)
    rollout.caught.clear()
    return out, caught


def _ordinary(value: Any) -> Any:
    """A tensor made under inference_mode as one that autograd may save; anything else as it is."""
    if isinstance(value, PerStep):
        return PerStep(_ordinary(value.values))
    made_there = isinstance(value, Tensor) and value.is_inference() and not torch.is_inference_mode_enabled()
    return value.clone() if made_there else value


def _nothing(gradient: Gradient | None) -> str:
    if not torch.is_grad_enabled():
        return (
            f"gradient={gradient}: got a call under torch.no_grad() or inference_mode(), expected grad mode on; "
            "call sample outside of it, or pass gradient=None to sample only"
        )
    return (
        f"gradient={gradient}: got inputs and parameters none of which requires grad, expected at least one; "
        "call requires_grad_() on what you optimise, or pass gradient=None to sample only"
    )


def _check_state(x: Tensor) -> None:
    if x.ndim < 2 or not x.is_floating_point():
        raise ValueError(
            f"x: got shape {tuple(x.shape)} of {x.dtype}, expected a floating point (B, ...) state with a "
            "batch axis"
        )


def _check_noise(plan: Plan, noise: Noise | None, x: Tensor) -> None:
    if not plan.slots:
        return
    if noise is None:
        raise ValueError(
            f"noise: got None, expected a source with {plan.slots} slots for {plan.name}; pass "
            "noise=Addressed(seed), or a tensor (slots, B, ...)"
        )
    noise.check(plan.slots, x)


def _check_coefficients(plan: Plan, denoiser: Model, values: Tensor | None) -> list[Tensor]:
    if values is None:
        return []
    own = numbers_of(plan, denoiser)
    if values.shape != own.shape:
        raise ValueError(
            f"coefficients: got shape {tuple(values.shape)}, expected {tuple(own.shape)}: what "
            "coefficients(plan, denoiser) lists"
        )
    return [values]


def _check_truncated(gradient: Truncated, others: list[Tensor], plan: Plan, opaque: bool) -> None:
    if not others and not opaque:
        raise ValueError(
            f"{gradient}: got only x that requires grad, expected something that enters the last "
            f"{gradient.last} of {plan.steps} steps; truncation cuts x off: use Checkpoint() for it"
        )


def _name_the_step(rollout: Rollout, registers: dict[str, Tensor]) -> None:
    """Replay the run to say where it went wrong: the loop itself reads no flag from the device."""
    quiet = rollout.quiet()

    def watched(call: Call, state: Tensor) -> Tensor:
        out = quiet.evaluate(call, state)
        for what, tensor in (("state before", state), ("network output at", out)):
            if not finite(tensor):
                raise FloatingPointError(
                    f"NaN or infinity in the {what} step {call.step} (call {call.index}, t="
                    f"{bare(call.t).flatten()[0].item():.6g}), expected finite values; check the network "
                    "there, its dtype, and the ends of the grid"
                )
        return out

    with torch.no_grad():
        quiet.execute(dict(registers), watched)
    raise FloatingPointError(
        "the sample is not finite but a replay was: the network is not deterministic; fix its seeds"
    )
