"""What a policy is worth: rewards, path KL, diversity and saturation on fixed prompts and fixed noise."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...adjoint import sample
from ...adjoint.arguments import noise_for
from ...solvers import Plan
from ..objectives.objective import Batch
from ..rewards.asked import NOT_FINITE, MeteredReward, refuse
from .config import TrainConfig
from .divergence import NO_KL, diverge, transitions_of
from .processes import Processes
from .prompts import Prompts
from .run import TrainingRun
from .undo import Pause

STREAM = 2**63  # of the evaluation's noise, out of the reach of training's
FIGURES = ("reward", "kl", "kl_note", "diversity", "saturated")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Figures by name, `<name>_se` their standard errors over samples, and the samples of all processes."""

    figures: dict[str, Any]
    x: Tensor


def evaluate(run: TrainingRun, prompts: Prompts, pause: Pause = Pause()) -> Evaluation:
    """Sample `config.evaluation_samples` over all processes without a graph, always the same prompts and noise.

    Figures, in float64: each reward, `kl` to the reference in nats, `diversity` (mean pairwise L2 distance of
    samples), `saturated` (share of entries at or outside `config.value_range`).

    Raises:
        FloatingPointError: a reward, held-out ones too, or a sample is not finite; ValueError: a reward is not (B,):
            on all processes together.
            Stopped: `pause` says so, between two pieces of `config.limit` samples.

    Cost: plan.nfe network calls, twice that with a path KL.
    """
    config = run.config
    share = config.evaluation_samples // run.world.size
    mine = range(run.world.rank * share, (run.world.rank + 1) * share)
    limit = config.limit or share
    samples, measured, trouble = [], [], None
    for ids in pause.between([mine[low : low + limit] for low in range(0, share, limit)]):
        batch = prompts.batch(ids, run.policy.plan, config.seed, run.like, STREAM)
        try:
            x, columns = _measure(run, batch)
        except FloatingPointError as error:  # raised here, on one process, it would leave the others waiting
            trouble = trouble or NOT_FINITE + str(error)
            continue
        samples.append(x)
        measured.append(columns)
        trouble = trouble or _trouble(run, ids)
    broken = run.world.told(trouble)
    if broken is not None:
        refuse(broken, "evaluation: ")
    x = run.world.gather(torch.cat(samples))
    table = run.world.gather(torch.cat([torch.stack([*columns.values()], 1) for columns in measured]))
    names = measured[0].keys()
    figures: dict[str, Any] = {} if "kl" in names else {"kl": None, "kl_note": NO_KL}
    for name, column in zip(names, table.unbind(1), strict=True):
        figures |= {name: float(column.mean()), f"{name}_se": float(column.std() / math.sqrt(len(column)))}
    low, high = config.value_range
    figures["diversity"] = float(torch.pdist(x.flatten(1)).mean())
    figures["saturated"] = float(((x <= low) | (x >= high)).double().mean())
    return Evaluation(figures, x)


def _rewards(run: TrainingRun) -> dict[str, MeteredReward]:
    return {"reward": run.reward, **run.heldout}


def _measure(run: TrainingRun, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Samples, and by name what each of them measures, (B,): the path KL where there is one, and every reward."""
    policy, columns = run.policy, {}
    with torch.no_grad():
        if policy.reference is not None and transitions_of(policy.plan) is not None:
            found = diverge(policy.denoiser, policy.reference, policy.plan, batch)
            x, columns["kl"] = found.x, found.kl.double()
        else:
            drawn = noise_for(policy.plan, batch.noise)
            x = sample(policy.denoiser, policy.plan, batch.x, cond=batch.cond, noise=drawn, gradient=None)
        for name, reward in _rewards(run).items():
            columns[name] = reward(x, batch.context).to(x.device, torch.float64)
    return x, columns


def _trouble(run: TrainingRun, ids: range) -> str | None:
    """What was noted of a reward while it scored the evaluation's samples `ids`."""
    noted = [reward.take_trouble() for reward in _rewards(run).values()]
    first = next((trouble for trouble in noted if trouble is not None), None)
    return None if first is None else f"{first} (evaluation samples {ids[0]} to {ids[-1]})"


def check_evaluations(config: TrainConfig, plan: Plan, heldout: Collection[str], world: Processes) -> None:
    """Raise ValueError where an evaluation cannot be shared out, a held-out reward hides another figure, or an end
    that is asked for cannot come about.
    """
    shadow = next((name for name in heldout if name in FIGURES or name.endswith("_se")), None)
    if shadow is not None:
        raise ValueError(
            f"heldout: got {shadow!r}, expected a name that no figure of an evaluation has: none of "
            f"{', '.join(FIGURES)}, and no _se at its end; rename it"
        )
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
