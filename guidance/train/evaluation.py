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
from .run import Run

STREAM = 2**63  # of the evaluation's noise, out of the reach of training's


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Figures by name, `<name>_se` their standard errors over samples, and the samples of all processes."""

    figures: dict[str, Any]
    x: Tensor


def evaluate(run: Run, prompts: Prompts) -> Evaluation:
    """Sample `config.evaluation_samples` over all processes without a graph, always the same prompts and noise.

    Figures: each reward, `kl` to the reference in nats, `diversity` (mean pairwise L2 distance of samples),
    `saturated` (share of entries at or outside `config.value_range`).

    Cost: plan.nfe network calls, twice that with a path KL.
    """
    config, plan = run.config, run.policy.plan
    measurable = run.policy.reference is not None and transitions_of(plan) is not None
    rewards = {"reward": run.reward, **run.heldout}
    share = config.evaluation_samples // run.world.size
    mine = range(run.world.rank * share, (run.world.rank + 1) * share)
    limit = config.limit or share
    rows = []
    for low in range(0, share, limit):
        batch = prompts.batch(mine[low : low + limit], plan, config.seed, run.like, STREAM)
        with torch.no_grad():
            x, kl = _sampled(run, batch, measurable)
            rows.append(
                (x, torch.stack([kl, *(ask(x, batch.context).to(kl) for ask in rewards.values())], 1))
            )
    x, table = (run.world.gather(torch.cat(parts)) for parts in zip(*rows, strict=True))
    columns = dict(zip(("kl", *rewards), table.unbind(1), strict=True))
    if not measurable:
        del columns["kl"]
    figures: dict[str, Any] = {} if measurable else {"kl": None, "kl_note": NO_KL}
    for name, column in columns.items():
        figures |= {name: float(column.mean()), f"{name}_se": float(column.std() / math.sqrt(len(column)))}
    low, high = config.value_range
    outside = ((x <= low) | (x >= high)).double().mean()
    return Evaluation(
        figures | {"diversity": float(torch.pdist(x.flatten(1)).mean()), "saturated": float(outside)}, x
    )


def _sampled(run: Run, batch: Batch, measurable: bool) -> tuple[Tensor, Tensor]:
    """Samples, and their path KL (B,), NaN where there is none."""
    ours, plan, base = run.policy.denoiser, run.policy.plan, run.policy.reference
    if measurable and base is not None:
        found = diverge(ours, base, plan, batch)
        return found.x, found.kl
    x = sample(ours, plan, batch.x, cond=batch.cond, noise=batch.noise, gradient=None)
    return x, x.new_full((len(x),), math.nan)


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
