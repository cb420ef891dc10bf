"""What can be known before training starts, measured on its first batch."""

import copy
import io
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .adapter import whole
from .config import Arithmetic
from .divergence import diverge, transitions_of
from .evaluation import NO_KL

if TYPE_CHECKING:
    from .trainer import RewardTrainer

NEAR = 1e-3  # nats: PPO's clip of 1e-4 a step is far above float32's rounding and below this over a run


@dataclass(frozen=True)
class Preflight:
    """What `RewardTrainer.check` found.

    Args:
        arithmetic: how samples are dealt out.
        trained, total: numbers of parameters.
        weight_bytes: of trained weights, gradients, both moments of AdamW and the running average.
        state_bytes: of the states of one piece that `Checkpoint()` keeps; activations come on top.
        log_ratio: largest |log p_now / p_rollout| over the first batch in nats, 0 but for rounding; None
            without a density.
        kl: mean path KL to the reference, 0 where training starts from it; None without a density.
        gradient_norm: of the first optimiser step.
    """

    arithmetic: Arithmetic
    trained: int
    total: int
    weight_bytes: int
    state_bytes: int
    log_ratio: float | None
    kl: float | None
    gradient_norm: float

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
            f"states: {self.state_bytes / 2**20:.1f} MiB a piece under Checkpoint(), and the activations of "
            f"one network call\nfirst batch: {density}; gradient norm {self.gradient_norm:.3g}, equal on "
            f"{self.arithmetic.processes} processes"
        )


def preflight(trainer: "RewardTrainer") -> Preflight:
    """Run the first piece of the first update up to its gradient, and put everything back.

    Raises:
        ValueError: a reward of wrong shape or without a needed gradient; a ratio that is not 1; weights or
            gradients that differ between processes; objective state that a checkpoint cannot hold.
            FloatingPointError: a reward, loss or gradient that is not finite.

    Warns where the path KL to the reference is not 0 although nothing has been trained.
    """
    policy, weights = trainer.policy, trainer.weights
    batch = trainer.batches()[0][0]
    kept, counts = copy.deepcopy(trainer.objective.state()), (trainer.reward.queries, trainer.reward.seconds)
    _storable(kept)
    with torch.random.fork_rng([trainer.world.device] if trainer.world.device.type == "cuda" else []):
        networks = trainer.denoiser.networks()
        _agree(
            trainer,
            "weights",
            [whole(value.detach()) for network in networks for value in network.parameters()],
        )
        log_ratio = kl = None
        ours, plan = policy.denoiser, policy.plan
        if transitions_of(plan) is not None:
            log_ratio = float(diverge(ours, ours, plan, batch).log_ratio.abs().max())
            if not log_ratio < NEAR:
                raise ValueError(
                    f"ratio: got |log p_now / p_rollout| up to {log_ratio:.3g} nats for unchanged weights, "
                    "expected 0; is dropout on (call network.eval()), or does the network draw random "
                    "numbers, mix the batch?"
                )
            if policy.reference is not None:
                kl = float(diverge(ours, policy.reference, plan, batch).kl.mean())
                if not kl < NEAR and not trainer.done:
                    warnings.warn(
                        f"path KL: got {kl:.3g} nats before training, expected 0; is the reference the model "
                        "that training starts from?",
                        stacklevel=3,
                    )
        try:
            norm = _gradient(trainer)
        finally:
            trainer.objective.load(kept)
            trainer.reward.queries, trainer.reward.seconds = counts
            trainer.optimizer.zero_grad()
    numbers = [value.numel() for value in weights.values()]
    size = sum(value.numel() * value.element_size() for value in weights.values())
    state = math.prod(batch.x.shape) * batch.x.element_size()
    return Preflight(
        trainer.arithmetic,
        sum(numbers),
        sum(value.numel() for value in trainer.denoiser.parameters()),
        size * (4 + (trainer.average is not None)),
        state * (plan.nfe + plan.held),
        log_ratio,
        kl,
        norm,
    )


def _gradient(trainer: "RewardTrainer") -> float:
    row = trainer.batches()[0]
    found = [trainer.objective.rollout(trainer.policy, batch, trainer.reward, trainer.world) for batch in row]
    for losses in trainer.steps(row, found, 0):
        for loss in losses:
            trainer.pull(loss)
        break
    else:
        raise ValueError("objective: got no optimiser step from updates(), expected at least one")
    trainer.average_gradients()
    grads = [value.grad for value in trainer.weights.values() if value.grad is not None]
    norm = whole(torch.nn.utils.get_total_norm(grads))
    trainer.stop_if_broken(norm)
    _agree(trainer, "gradients", [whole(grad) for grad in grads])
    return float(norm)


def _agree(trainer: "RewardTrainer", what: str, values: list[Tensor]) -> None:
    """Raise ValueError unless every process holds the same numbers, told by one sum of each tensor."""
    mine = torch.stack([value.double().square().sum() for value in values])[None].to(trainer.world.device)
    seen = trainer.world.gather(mine)
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
