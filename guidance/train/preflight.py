"""What can be known before training starts, measured on its first batch."""

import copy
import io
import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from ...adjoint import Auto, Checkpoint, Direct, Gradient
from ..objectives.objective import Batch
from .arithmetic import Arithmetic
from .divergence import NO_KL, diverge, transitions_of
from .iteration import optimiser_steps, rollouts, step_gradient
from .processes import Processes
from .run import TrainingRun
from .sharded import whole
from .tally import Tally

NEAR = 1e-3  # nats: PPO's clip of 1e-4 a step is far above float32's rounding and below this over a run


@dataclass(frozen=True)
class Preflight:
    """What `RewardTrainer.check` found.

    Args:
        arithmetic: how samples are dealt out.
        trained, total: numbers of parameters.
        weight_bytes: of trained weights, gradients, both moments of AdamW and the running average.
        state_bytes: of the states of one piece at all network calls, as a path or `Checkpoint()` keeps them;
            activations come on top.
        log_ratio: largest |log p_now / p_rollout| over the first batch in nats, 0 but for rounding; None
            without a density.
        kl: mean path KL to the reference, 0 where training starts from it; None without a density.
        gradient_norm: of the first optimiser step.
        strategy: that differentiates the sampler's run; None for an objective that does not.
    """

    arithmetic: Arithmetic
    trained: int
    total: int
    weight_bytes: int
    state_bytes: int
    log_ratio: float | None
    kl: float | None
    gradient_norm: float
    strategy: Gradient | None = None

    def __str__(self) -> str:
        density = (
            NO_KL
            if self.kl is None
            else f"largest |log ratio| {self.log_ratio:.2g}, path KL {self.kl:.2g} nats"
        )
        return (
            f"batch: {self.arithmetic}\n"
            f"trained: {self.trained} of {self.total} parameters; {self.weight_bytes / 2**20:.1f} MiB with "
            "gradients, moments and average\n"
            f"states: {self.state_bytes / 2**20:.1f} MiB a piece at all network calls; {self._activations}\n"
            f"first batch: {density}; gradient norm {self.gradient_norm:.3g}, equal on "
            f"{self.arithmetic.processes} processes"
        )

    @property
    def _activations(self) -> str:
        """What the gradient keeps beside the states, in words."""
        if self.strategy is None:
            return (
                "the objective differentiates no run, and needs the activations of the calls of one loss term"
            )
        name = type(self.strategy).__name__
        if isinstance(self.strategy, Direct):
            return f"{name} keeps the activations of every call that it differentiates"
        if isinstance(self.strategy, Auto | Checkpoint) and _without_limits(self.strategy):
            return f"{name} keeps the activations of one call"
        return f"what {name} keeps of states and activations is its own"


def _without_limits(strategy: Auto | Checkpoint) -> bool:
    """Whether every state is kept, and the activations of one call."""
    if isinstance(strategy, Auto):
        return strategy == Auto()
    return strategy.memory_budget is None and not strategy.recursive


def preflight(run: TrainingRun) -> Preflight:
    """Run the first optimiser step up to its gradient, and put everything back.

    Raises:
        ValueError: a reward of wrong shape or without a needed gradient; a ratio that is not 1; weights or
            gradients that differ between processes; objective state that a checkpoint cannot hold.
            FloatingPointError: a reward, loss or gradient that is not finite.

    Warns where the path KL to the reference is not 0 although nothing has been trained.
    """
    kept, counts = copy.deepcopy(run.objective.state()), (run.reward.queries, run.reward.seconds)
    _storable(kept)
    with torch.random.fork_rng([run.world.device] if run.world.device.type == "cuda" else []):
        row = run.batches()[0]
        frozen_too = (value for network in run.policy.denoiser.networks() for value in network.parameters())
        _agree(run.world, "weights", [whole(value.detach()) for value in frozen_too])
        log_ratio, kl = _densities(run, row[0])
        try:
            norm = _first_gradient(run, row)
        finally:
            run.objective.load(kept)
            run.reward.queries, run.reward.seconds = counts
            run.trained.optimizer.zero_grad()
    weights, plan = run.trained.weights.values(), run.policy.plan
    size = sum(value.numel() * value.element_size() for value in weights)
    state = math.prod(row[0].x.shape) * row[0].x.element_size()
    return Preflight(
        run.arithmetic,
        sum(value.numel() for value in weights),
        sum(value.numel() for value in run.policy.denoiser.parameters()),
        size * (4 + (run.trained.average is not None)),
        state * (plan.nfe + plan.held),
        log_ratio,
        kl,
        norm,
        getattr(run.objective, "gradient", None),
    )


def _densities(run: TrainingRun, batch: Batch) -> tuple[float | None, float | None]:
    """Largest |log ratio| of the policy to itself, and path KL to the reference; None without a density."""
    ours, plan, base = run.policy.denoiser, run.policy.plan, run.policy.reference
    if transitions_of(plan) is None:
        return None, None
    log_ratio = float(diverge(ours, ours, plan, batch).log_ratio.abs().max())
    if not log_ratio < NEAR:
        raise ValueError(
            f"ratio: got |log p_now / p_rollout| up to {log_ratio:.3g} nats for unchanged weights, expected "
            "0; is dropout on (call network.eval()), or does the network draw random numbers, mix the batch?"
        )
    if base is None:
        return log_ratio, None
    kl = float(diverge(ours, base, plan, batch).kl.mean())
    if not kl < NEAR and not run.done:
        warnings.warn(
            f"path KL: got {kl:.3g} nats before training, expected 0; is the reference the model that "
            "training starts from?",
            stacklevel=4,  # at the call of RewardTrainer.check
        )
    return log_ratio, kl


def _first_gradient(run: TrainingRun, row: list[Batch]) -> float:
    """The norm of the first update's first gradient, equal on all processes."""
    losses = next(optimiser_steps(run, row, *rollouts(run, [row]), update=0), None)
    if losses is None:
        raise ValueError("objective: got no optimiser step from updates(), expected at least one")
    norm = step_gradient(run, losses, Tally())
    _agree(run.world, "gradients", [whole(grad) for grad in run.trained.gradients().values()])
    return float(whole(norm))


def _agree(world: Processes, what: str, values: list[Tensor]) -> None:
    """Raise ValueError unless every process holds the same numbers, told by one sum of each tensor."""
    mine = torch.stack([value.double().square().sum() for value in values])[None].to(world.device)
    seen = world.gather(mine)
    if not bool((seen == seen[:1]).all()):
        raise ValueError(
            f"{what}: got different numbers on {len(seen)} processes, expected equal ones; seed every "
            "process alike before building the network, or load the same file"
        )


def _storable(state: dict[str, object]) -> None:
    """Raise ValueError unless a checkpoint can hold and give back `state` without running code."""
    held = io.BytesIO()
    try:
        torch.save(state, held)
        held.seek(0)
        torch.load(held, weights_only=True)
    except Exception as error:
        raise ValueError(
            f"objective.state(): got what a checkpoint cannot hold ({error}), expected tensors, numbers, "
            "strings, and dicts, lists and tuples of them"
        ) from error
