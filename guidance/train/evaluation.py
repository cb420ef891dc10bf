"""What a policy is worth: rewards, path KL, diversity and saturation on fixed prompts and fixed noise."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...adjoint import sample
from ..objectives.objective import Policy
from .config import TrainConfig
from .divergence import diverge, transitions_of
from .processes import Processes
from .prompts import Prompts
from .scored import Scored

STREAM = 2**63  # of the evaluation's noise, out of the reach of training's

NO_KL = "no path KL: the plan's transitions are not Gaussian with known mean (deterministic, or noise within a step)"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Figures by name, `<name>_se` their standard errors over samples, and the samples of all processes."""

    figures: dict[str, Any]
    x: Tensor


def evaluate(
    policy: Policy,
    prompts: Prompts,
    rewards: Mapping[str, Scored],
    config: TrainConfig,
    world: Processes,
    like: Tensor,
) -> Evaluation:
    """Sample `config.evaluation_samples` over all processes without a graph, always the same prompts and noise.

    Figures: each reward, `kl` to the reference in nats, `diversity` (mean pairwise L2 distance of samples),
    `saturated` (share of entries at or outside `config.value_range`).

    Cost: plan.nfe network calls, twice that with a path KL.
    """
    share, rows = config.evaluation_samples // world.size, []
    steps = transitions_of(policy.plan) if policy.reference is not None else None
    ids = range(world.rank * share, (world.rank + 1) * share)
    for low in range(0, share, config.limit or share):
        batch = prompts.batch(
            ids[low : low + (config.limit or share)], policy.plan, config.seed, like, STREAM
        )
        with torch.no_grad():
            if steps is not None and policy.reference is not None:
                run = diverge(policy.denoiser, policy.reference, policy.plan, batch)
                x, kl = run.x, run.kl
            else:
                x = sample(
                    policy.denoiser, policy.plan, batch.x, cond=batch.cond, noise=batch.noise, gradient=None
                )
                kl = x.new_full((len(x),), math.nan)
            rows.append(
                (x, torch.stack([kl, *(reward(x, batch.context).to(kl) for reward in rewards.values())], 1))
            )
    x, table = (world.gather(torch.cat(parts)) for parts in zip(*rows, strict=True))
    columns = dict(zip(("kl", *rewards), table.unbind(1), strict=True))
    if steps is None:
        del columns["kl"]
    figures: dict[str, Any] = {} if steps is not None else {"kl": None, "kl_note": NO_KL}
    for name, column in columns.items():
        figures |= {name: float(column.mean()), f"{name}_se": float(column.std() / math.sqrt(len(column)))}
    low, high = config.value_range
    outside = ((x <= low) | (x >= high)).double().mean()
    return Evaluation(
        figures | {"diversity": float(torch.pdist(x.flatten(1)).mean()), "saturated": float(outside)}, x
    )


class Decline:
    """Watches held-out rewards: `seen` is true once one of them lay below its best by more than its standard
    error `patience` times on end.
    """

    def __init__(self, names: list[str], patience: int | None) -> None:
        self.names, self.patience = names, patience
        self.best: dict[str, float] = {}
        self.count = dict.fromkeys(names, 0)

    def seen(self, figures: dict[str, Any]) -> bool:
        """Take one evaluation in."""
        for name in self.names:
            below = figures[name] < self.best.get(name, -math.inf) - figures[f"{name}_se"]
            self.count[name] = self.count[name] + 1 if below else 0
            self.best[name] = max(self.best.get(name, -math.inf), figures[name])
        return self.patience is not None and any(count >= self.patience for count in self.count.values())

    def state(self) -> dict[str, Any]:
        """What must survive a restart."""
        return {"best": dict(self.best), "count": dict(self.count)}

    def load(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave; names unknown now are dropped, new ones start afresh."""
        self.best = {name: value for name, value in state["best"].items() if name in self.names}
        self.count = {name: state["count"].get(name, 0) for name in self.names}
