"""How strong the diffusion is that each step of a run follows: 1 + tau^2, on which an adjoint's drift hangs."""

import math
from collections.abc import Sequence

import torch

from ...solvers import DATA, Combine, Evaluate, Plan
from ...solvers.instructions import Instruction, writes
from ...solvers.prediction import conversion
from ..strategies.gradient import Gradient


def factors(strategy: Gradient, plan: Plan) -> list[float]:
    """1 + tau^2 for each step of the run, tau^2 read off what the step does.

    An exponential step of the SDE of level tau shrinks y - D, y = x/alpha, by e^{-(1 + tau^2) h} and adds noise of
    sigma_t^2 (1 - e^{-2 tau^2 h}). Where the two say the same tau that is it, of any size: SA-Solver's, DDIM(eta)'s,
    ER-SDE's, 1 for DDPM. Others, as Euler-Maruyama, agree to first order in h; they are read by their noise, up to 1,
    and by their drift beyond.

    Raises:
        ValueError: more noise than the drift pays for, a network call at a noisier level than the step's, a stochastic
            run on a rising grid.
    """
    if not plan.stochastic:
        return [1.0] * plan.steps
    times = torch.tensor(plan.times, dtype=torch.float64)
    if bool(times[-1] > times[0]):
        raise ValueError(
            f"{strategy}: got the stochastic {plan.name} on a rising grid, expected a deterministic run there: "
            "noise towards noise is the forward process, whose adjoint needs no network; use Checkpoint()"
        )
    sigma, lam = plan.process.sigma(times).tolist(), plan.process.lam(times).tolist()
    shrinks, found = _shrinks(plan), []
    for i in range(plan.steps):
        added = [c for op in plan.step(i) if isinstance(op, Combine) for c, _ in op.noise]
        h = lam[i + 1] - lam[i]
        if not math.isfinite(h):
            found.append(2.0)
            continue
        share = sum(float(c) ** 2 for c in added) / sigma[i + 1] ** 2  # type: ignore[arg-type]
        by_noise = -math.log1p(-share) / (2 * h) if share < 1 else math.inf
        by_drift = -math.log(shrinks[i]) / h - 1 if shrinks[i] > 0 else math.inf
        if math.isclose(by_noise, by_drift, rel_tol=1e-6, abs_tol=1e-9):
            found.append(1 + by_noise)
            continue
        reached = plan.process.lam(
            torch.tensor([op.t for op in plan.step(i) if isinstance(op, Evaluate)]).double()
        )
        # tau^2 = 1 lies between the two ways of writing the noise of a step, e^{2h} - 1 and 1 - e^{-2h}; a rule
        # that takes g^2 where the step opens, as Euler-Maruyama, passes them by a share of order h
        level = by_drift if 1 < by_drift < math.inf and share > (1 + h) * math.expm1(2 * h) else 1.0
        most = (1 + h) * math.expm1(2 * level * h)
        if share > most or bool((reached < lam[i] - 1e-6).any()):
            raise ValueError(
                f"{strategy}: got {plan.name}, whose step {i} adds noise of {share:.3g} sigma^2 and evaluates at "
                f"lambda {float(reached.min()):.3g}, expected at most {most:.3g} and no lower than {lam[i]:.3g}: the "
                "noise of one diffusion, which its drift pays for, in steps that are not too long; take more steps, or "
                "use Checkpoint()"
            )
        found.append(1 + (level if share >= 0.98 * -math.expm1(-2 * h) else by_noise))
    return found


def _shrinks(plan: Plan) -> list[float]:
    """By how much each step shrinks y - D: the run on data that are all 0, of y = x/alpha, without noise."""
    registers, found = {"x": 1.0}, []
    times = torch.tensor(plan.times, dtype=torch.float64)
    alpha, sigma = plan.process.alpha(times).tolist(), plan.process.sigma(times).tolist()
    for i in range(plan.steps):
        if not (alpha[i] and registers["x"]):  # y has no value, or nothing is left
            registers["x"] = 1.0
        before = registers["x"]
        for op in plan.step(i):
            if isinstance(op, Evaluate):
                a, _ = conversion(DATA, op.want, plan.process, float(op.t)) if sigma[i] else (0.0, 0.0)  # type: ignore
                registers[op.outs[0]] = float(a) * registers[op.src]
            else:
                assert isinstance(op, Combine)
                registers[op.out] = sum(float(c) * registers[name] for c, name in op.terms)  # type: ignore[arg-type]
        found.append(registers["x"] / before * alpha[i] / alpha[i + 1] if alpha[i] else math.nan)
    return found


def noise_in_state(ops: Sequence[Instruction]) -> dict[int, float]:
    """{slot: c}: how much of each draw a step leaves in "x", by way of any register, predictions held.

    A method with a corrector draws into the predicted point.
    """
    held: dict[str, dict[int, float]] = {}
    for op in ops:
        if not isinstance(op, Combine):
            held.update(dict.fromkeys(writes(op), {}))
            continue
        found: dict[int, float] = {}
        drawn = [(1.0, {slot: c}) for c, slot in op.noise]
        for c, noise in [*((c, held.get(name, {})) for c, name in op.terms), *drawn]:
            for slot, k in noise.items():
                found[slot] = found.get(slot, 0.0) + float(c) * float(k)  # type: ignore[arg-type]
        held[op.out] = found
    return held.get("x", {})
