"""How far a policy has moved from its reference along a run, in nats: the path KL of Gaussian transitions."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers import Combine, Model, Plan, Transitions
from ...solvers.loop import execute, predict
from ...solvers.program import prepare
from ..objectives.objective import Batch

NO_KL = "no path KL: the plan's transitions are not Gaussian with known mean (deterministic, or noise within a step)"


@dataclass(frozen=True, eq=False)
class Divergence:
    """A run of the policy, compared with another model at the same states.

    Args:
        x: (B, ...) the sample.
        kl: (B,) sum over steps of |m_policy - m_other|^2 / (2 s^2): its mean over samples is the path KL.
        log_ratio: (B,) log of the path's density under the other model over that under the policy.
    """

    x: Tensor
    kl: Tensor
    log_ratio: Tensor


def transitions_of(plan: Plan) -> Transitions | None:
    """The plan's Gaussian steps; None where it has none of known mean: deterministic plans, churn,
    correctors, stacked grids.
    """
    if not plan.stochastic or plan.batch is not None:
        return None
    try:
        return Transitions(plan)
    except ValueError:
        return None


def diverge(policy: Model, other: Model, plan: Plan, batch: Batch) -> Divergence:
    """Run `policy` and put both models' transitions at its states side by side.

        KL(P_policy || P_other) = E_policy sum_k |m_k^policy - m_k^other|^2 / (2 s_k^2)

    Both see the same noise, so the difference of the states after a step is that of the means. Steps without
    noise (the last one of most samplers) have no density and are left out.

    Raises:
        ValueError: transitions are no Gaussians of known mean (see `Transitions`).

    Cost: 2 plan.nfe network calls, no graph. Source: the chain rule of KL; Fan et al. 2023, arXiv 2305.16381.
    """
    steps = transitions_of(plan)
    if steps is None:
        raise ValueError(
            f"{plan.name}: got a plan without Gaussian transitions of known mean, expected a stochastic one "
            "such as DDIM(eta=1), DDPM() or SDEDPMSolverPP(); a deterministic plan has no path KL"
        )
    with torch.no_grad():
        ours, theirs = {"x": batch.x.detach()}, {"x": batch.x.detach()}
        programs = prepare(plan, policy, batch.x), prepare(plan, other, batch.x)
        kl = batch.x.new_zeros(len(batch))
        log_ratio = kl.clone()
        for step, s in enumerate(steps.stds):
            theirs["x"] = ours["x"]
            for model, program, registers in zip((policy, other), programs, (ours, theirs), strict=True):
                execute(
                    program.steps(step, step + 1),
                    registers,
                    lambda call, state, model=model: predict(model, call, state, batch.cond),
                    batch.noise,
                )
            if isinstance(s, float) and s:
                z = ((ours["x"] - theirs["x"]) / s).flatten(1)
                draw = _draw(plan, step, batch).flatten(1)
                half = z.square().sum(1) / 2
                kl, log_ratio = kl + half, log_ratio - (draw * z).sum(1) - half
    return Divergence(ours["x"], kl, log_ratio)


def _draw(plan: Plan, step: int, batch: Batch) -> Tensor:
    """The unit draw of a step that has one."""
    slot = next(op.noise[0][1] for op in plan.step(step) if isinstance(op, Combine) and op.noise)
    assert batch.noise is not None
    return batch.noise(slot, batch.x)
