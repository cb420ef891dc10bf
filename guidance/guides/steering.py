"""`steer`: sample while a guide corrects the data prediction, the velocity or the state of every step."""

import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...adjoint import Auto, Gradient, JacobianFree
from ...adjoint.arguments import check_arguments, check_gradient
from ...adjoint.not_finite import blanked, lost, which_samples
from ...adjoint.replay.bound_model import BoundModel
from ...adjoint.replay.cond import leaves
from ...adjoint.replay.parameters import parameters
from ...adjoint.watching import Callback, show
from ...solvers import Addressed, GivenNoise, Model, Noise, Plan
from ...solvers.kinds import check_kind
from ...solvers.notebook import Shown
from ...solvers.opening import carried, check_state
from ...solvers.per_step import check_steps
from ...solvers.program import prepare
from ...solvers.progress import progress_bar
from .bookkeeping import Setting, Through
from .guide import Guide
from .guided_run import GuidedRun, asked_calls
from .state_limits import REMEDIES, StateLimits
from .strengths import check_strengths
from .validity import check_fields, check_hooks

OWN_STREAM = 2**63  # added to the stream of the plan's noise for what a guide draws


@dataclass(frozen=True, eq=False, repr=False)
class Steered(Shown):
    """A guided sample and what it took.

    Attributes:
        sample: (B, ...).
        losses: (N, B) what the guide reported at the start of each step (its last repetition); nan where it
            reported nothing.
        nfe, vjps: model evaluations (of two network calls each under `ClassifierFree`) and VJPs; repetitions,
            lookahead and its replays included.
        seed: of the plan's noise, where it has one.
        memories: what each guide kept, by `id(guide)`; see `memory`.
    """

    sample: Tensor
    losses: Tensor
    nfe: int
    vjps: int
    seed: int | None
    memories: dict[int, dict[str, Any]]

    def memory(self, guide: object) -> dict[str, Any]:
        """What `guide` kept of this run."""
        return self.memories.get(id(guide), {})


def steer(
    denoiser: Model,
    plan: Plan,
    x: Tensor,
    guide: Guide,
    *,
    cond: Any = None,
    noise: Noise | Tensor | None = None,
    draws: Noise | None = None,
    through: Through = Through.NOTHING,
    gradient: Gradient = Auto(),
    callback: Callback | None = None,
    progress: bool = False,
    keep_finite: bool = False,
) -> Steered:
    """Run `plan` from x under `guide`.

    Args:
        denoiser, plan, x, cond, noise, callback, progress: as for `sample`. `ClassifierFree` works as the
            denoiser.
        guide: see `Guide`; guides add up, `guide.during(start, stop)` limits one to a part of the steps.
        draws: source of the guide's own randomness; default: that of `noise`, in a stream of its own.
        through: what autograd sees. By default nothing; STOPPED holds the corrections constant, FULL
            differentiates the guide too (second derivatives of the network).
        gradient: the strategy that differentiates the run, where `through` says that it is to be: `Checkpoint()` keeps
            the states, and makes a step with the graph of its guide's gradient again when the backward pass comes by;
            `Direct()` keeps the graph of the whole run. Others are refused.
        keep_finite: where some samples are not finite or have diverged, return NaN for these,
            warn, and go on with the others; where nothing is differentiated `through` the run.

    Returns:
        Steered. No network call is made twice: a guide's VJP uses the forward pass of the step.

    Raises:
        ValueError: before the first call, for a plan that cannot carry the guide's hooks and for anything
            that does not fit.
        FloatingPointError: a loss or a sample that is not finite, or one that has diverged: a hundred times
            as far from its prediction as noise and data account for (`state_limits.py`). Guide, step and samples are
            named.

    Cost: plan.nfe evaluations times the repeats, the guide's VJPs; memory one network call's activations
    where the guide differentiates. A backward pass under `Checkpoint` makes all of it once more, and of the network one
    VJP a call and one more of each VJP (through FULL); memory N states and one step's graph.
    """
    check_arguments(denoiser, plan, x, cond=cond, noise=noise, callback=callback)
    check_kind(
        "guide", guide, Guide, "a guide; a loss goes into one: DPS(loss), LGD(loss) or Lookahead(loss)"
    )
    check_kind(
        "through", through, Through, "Through.NOTHING, STOPPED or FULL; import it from pullback.guidance"
    )
    _check_wanted(gradient, through)
    check_fields(guide)
    check_state(x, "steer")
    _check_noise(plan, noise)
    if keep_finite and through is not Through.NOTHING:
        raise ValueError(
            f"keep_finite: got through={through}, expected Through.NOTHING: what is NaN for one sample would be "
            "NaN in the gradient of all weights; leave the sample out of the batch"
        )
    scheduled, hooks = check_steps(cond, plan.steps), guide.hooks()
    check_hooks(plan, denoiser, hooks)
    check_strengths(guide, plan.steps, len(x))
    guide.check(denoiser, plan, x)
    _check_twice(guide, through)
    x = carried(x)
    source = GivenNoise(noise) if isinstance(noise, Tensor) else noise
    if plan.slots:
        assert source is not None
        source.check(plan.slots, x)
    if draws is None and isinstance(source, Addressed):
        draws = Addressed(source.seed, source.samples, (source.stream + OWN_STREAM) % 2**64, source.on_cpu)
    model, around = denoiser, None
    if through is not Through.NOTHING:
        model = BoundModel(denoiser)
        around = gradient.around_steps(
            model, {f"cond[{k}]": leaf for k, leaf in enumerate(leaves(cond))} | parameters(model)
        )
    program, setting = prepare(plan, model, x), Setting(model, plan, cond, draws, through)
    limits = StateLimits(plan, guide, keep_finite)
    run = GuidedRun(setting, program, asked_calls(plan), scheduled, guide, hooks, source, limits, around)
    registers, rows = {"x": x if through is not Through.NOTHING else x.detach()}, []
    with torch.no_grad() if through is Through.NOTHING else nullcontext():
        for step in progress_bar(range(plan.steps), disable=not progress):
            if callback is not None:
                show(callback, step, plan.times[step], registers["x"])
            registers, loss = run.taken(step, registers)
            rows.append(x.new_full((len(x),), torch.nan) if loss is None else loss)
            if not keep_finite or bool(lost(registers["x"]).all()):
                _finite(step, plan, guide, loss, registers["x"])
    x = registers["x"]
    limits.warn_of(x)
    if callback is not None:
        show(callback, plan.steps, plan.times[-1], x)
    if keep_finite and bool((gone := lost(x)).any()):
        warnings.warn(
            f"steer: not finite for {which_samples(gone)}; these are NaN", RuntimeWarning, stacklevel=2
        )
        x = blanked(x, gone)
    return Steered(
        sample=x,
        losses=torch.stack(rows),
        nfe=setting.counter.nfe,
        vjps=setting.counter.vjps,
        seed=source.seed if isinstance(source, Addressed) else None,
        memories=setting.memories,
    )


def _check_wanted(gradient: Gradient, through: Through) -> None:
    """Raise ValueError where a strategy is asked for and nothing is to be differentiated."""
    check_kind("gradient", gradient, Gradient, "a strategy: Checkpoint() or Direct()")
    if through is Through.NOTHING and not isinstance(gradient, Auto):
        raise ValueError(
            f"gradient={gradient}: got through=Through.NOTHING, expected Through.STOPPED or FULL where the run is to "
            "be differentiated; leave one of them out"
        )
    check_gradient(gradient)


def _check_twice(guide: Guide, through: Through) -> None:
    """Raise ValueError where a guide's gradient holds predictions constant and is to be differentiated itself."""
    for part in guide.parts():
        gradient = getattr(part, "gradient", None)
        if through is Through.FULL and isinstance(gradient, JacobianFree):
            raise ValueError(
                f"{part.name}: got gradient={gradient} under Through.FULL, expected a gradient whose own derivative is "
                "the run's: predictions are held constant there; take Checkpoint() or Direct(), or Through.STOPPED"
            )


def _check_noise(plan: Plan, noise: Noise | Tensor | None) -> None:
    if plan.slots and noise is None:
        raise ValueError(
            f"noise: got None, expected a source with {plan.slots} slots for {plan.name}; pass "
            "noise=Addressed(seed)"
        )


def _finite(step: int, plan: Plan, guide: Guide, loss: Tensor | None, x: Tensor) -> None:
    for what, value in (("loss", loss), ("state", x)):
        if value is not None and not bool(torch.isfinite(value.detach()).all()):
            raise FloatingPointError(
                f"{what}: not finite at step {step} (t={plan.times[step]}) under {guide.name}: got NaN or infinity for "
                f"{which_samples(lost(value))}, expected finite values; {REMEDIES}, check the "
                "network there, or let the others go on with keep_finite=True"
            )
