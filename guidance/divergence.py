"""How far a policy has moved from its reference along a run, in nats: the path KL of Gaussian transitions."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..solvers import Combine, Evaluate, Model, Plan, entry, execute, predict, prepare
from ..solvers.plan import last_uses, reads, writes
from .objective import Batch


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


def spreads(plan: Plan) -> tuple[float, ...] | None:
    """Standard deviation s of every step's transition N(m(x, history of predictions), s^2), 0 where it draws nothing.

    None where transitions are no such Gaussians: no noise at all, noise that a later network call of the same step sees
    (churn, correctors), a second state carried along, a stacked plan.
    """
    if not plan.stochastic or plan.batch is not None or plan.entry != ("x",):
        return None
    dead, bounds, found = last_uses(plan.instructions, plan.exit), [*plan.starts, len(plan.instructions)], []
    from_state = {"x"}
    for low, high in zip(bounds, bounds[1:], strict=False):
        variance, noisy = 0.0, False
        for k in range(low, high):
            op = plan.instructions[k]
            draws = op.noise if isinstance(op, Combine) else ()
            if noisy or (draws and writes(op) != ("x",)):
                return None
            if draws:
                noisy, variance = True, sum(float(c) ** 2 for c, _ in draws)  # type: ignore[arg-type]
            touched = not isinstance(op, Evaluate) and bool(from_state & set(reads(op)))
            from_state = from_state | set(writes(op)) if touched else from_state - set(writes(op))
            from_state -= set(dead[k])
        if from_state - {"x"}:
            return None
        found.append(variance**0.5)
    return tuple(found)


def diverge(policy: Model, other: Model, plan: Plan, batch: Batch) -> Divergence:
    """Run `policy` and put both models' transitions at its states side by side.

        KL(P_policy || P_other) = E_policy sum_k |m_k^policy - m_k^other|^2 / (2 s_k^2)

    Both see the same noise, so the difference of the states after a step is that of the means. Steps without noise (the
    last one of most samplers) have no density and are left out.

    Raises:
        ValueError: transitions are no Gaussians of known mean (see `spreads`).

    Cost: 2 plan.nfe network calls, no graph. Source: Girsanov for discrete chains; Fan et al. 2023, arXiv 2305.16381, lemma 1.
    """
    stds = spreads(plan)
    if stds is None:
        raise ValueError(f"{plan.name}: got a plan without Gaussian transitions of known mean, expected a stochastic one such as "
                         "DDIM(eta=1), DDPM() or SDEDPMSolverPP(); a deterministic plan has no path KL")
    with torch.no_grad():
        ours, theirs = entry(plan, batch.x.detach()), entry(plan, batch.x.detach())
        programs = prepare(plan, policy, batch.x), prepare(plan, other, batch.x)
        kl = batch.x.new_zeros(len(batch))
        log_ratio = kl.clone()
        for step, s in enumerate(stds):
            theirs["x"] = ours["x"]
            for model, program, registers in zip((policy, other), programs, (ours, theirs), strict=True):
                execute(program.steps(step, step + 1), registers,
                        lambda call, state, model=model: predict(model, call, state, batch.cond), batch.noise)
            if s:
                z = ((ours["x"] - theirs["x"]) / s).flatten(1)
                slots = next(op.noise for op in _step(plan, step) if isinstance(op, Combine) and op.noise)
                assert batch.noise is not None
                draw = sum((float(c) / s * batch.noise(slot, batch.x) for c, slot in slots), torch.zeros_like(batch.x))
                half = z.square().sum(1) / 2
                kl, log_ratio = kl + half, log_ratio - (draw.flatten(1) * z).sum(1) - half
    return Divergence(ours["x"], kl, log_ratio)


def _step(plan: Plan, step: int) -> tuple[object, ...]:
    bounds = [*plan.starts, len(plan.instructions)]
    return plan.instructions[bounds[step] : bounds[step + 1]]
