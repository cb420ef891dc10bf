"""What a policy is worth: rewards, path KL, diversity and saturation on fixed prompts and fixed noise."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...adjoint import sample
from ...solvers import Plan
from ..objectives.objective import Batch
from .config import TrainConfig
from .divergence import NO_KL, diverge, transitions_of
from .processes import Processes
from .prompts import Prompts
from .run import TrainingRun

STREAM = 2**63  # of the evaluation's noise, out of the reach of training's


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Figures by name, `<name>_se` their standard errors over samples, and the samples of all processes."""

    figures: dict[str, Any]
    x: Tensor


def evaluate(run: TrainingRun, prompts: Prompts) -> Evaluation:
    """Sample `config.evaluation_samples` over all processes without a graph, always the same prompts and noise.

    Figures: each reward, `kl` to the reference in nats, `diversity` (mean pairwise L2 distance of samples),
    `saturated` (share of entries at or outside `config.value_range`).

    Cost: plan.nfe network calls, twice that with a path KL.
    """
    config = run.config
    share = config.evaluation_samples // run.world.size
    mine = range(run.world.rank * share, (run.world.rank + 1) * share)
    limit = config.limit or share
    measured = [
        _measure(run, prompts.batch(mine[low : low + limit], run.policy.plan, config.seed, run.like, STREAM))
        for low in range(0, share, limit)
    ]
    x = run.world.gather(torch.cat([piece for piece, _ in measured]))
    table = run.world.gather(torch.cat([torch.stack([*columns.values()], 1) for _, columns in measured]))
    names = measured[0][1].keys()
    figures: dict[str, Any] = {} if "kl" in names else {"kl": None, "kl_note": NO_KL}
    for name, column in zip(names, table.unbind(1), strict=True):
        figures |= {name: float(column.mean()), f"{name}_se": float(column.std() / math.sqrt(len(column)))}
    low, high = config.value_range
    figures["diversity"] = float(torch.pdist(x.flatten(1)).mean())
    figures["saturated"] = float(((x <= low) | (x >= high)).double().mean())
    return Evaluation(figures, x)


def _measure(run: TrainingRun, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Samples, and by name what each of them measures, (B,): the path KL where there is one, and every reward."""
    policy, columns = run.policy, {}
    with torch.no_grad():
        if policy.reference is not None and transitions_of(policy.plan) is not None:
            found = diverge(policy.denoiser, policy.reference, policy.plan, batch)
            x, columns["kl"] = found.x, found.kl
        else:
            x = sample(
                policy.denoiser, policy.plan, batch.x, cond=batch.cond, noise=batch.noise, gradient=None
            )
        for name, reward in {"reward": run.reward, **run.heldout}.items():
            columns[name] = reward(x, batch.context).to(x)
    return x, columns


def check_evaluations(config: TrainConfig, plan: Plan, heldout: Collection[str], world: Processes) -> None:
    """Raise ValueError where an evaluation cannot be shared out, or cannot bring about an end that is asked for."""
    if config.evaluation_samples % world.size:
        raise ValueError(
            f"evaluation_samples: got {config.evaluation_samples}, expected a multiple of the {world.size} "
            "processes"
        )
    if config.max_kl is not None and (config.evaluate_every is None or transitions_of(plan) is None):
        raise ValueError(
            f"max_kl: got {config.max_kl} with evaluate_every={config.evaluate_every} and {plan.name}, "
            f"expected evaluations and a path KL; {NO_KL}"
        )
    if config.patience is not None and (config.evaluate_every is None or not heldout):
        raise ValueError(
            f"patience: got {config.patience}, evaluate_every={config.evaluate_every} and {len(heldout)} "
            "held-out rewards, expected evaluations and at least 1; pass heldout={name: reward}"
        )
