"""Noise recovered from data: the start and the draws along which a stochastic plan ends at a given sample."""

from enum import Enum
from typing import Any

import torch
from torch import Tensor

from ..broadcast import per_sample
from ..checked import checked
from ..instructions import Coefficient, Combine, Evaluate, Time, writes
from ..linear_map import LinearMap, PerElement
from ..loop import run
from ..model import Model
from ..noise import GivenNoise, Noise
from ..opening import check_state
from ..packing import State, packing_of
from ..plan import Plan
from ..process import as_time


class Encoding(Enum):
    """How the states that the noises are solved from are drawn; at each node both have the law q(x_k | x_N).

    JOINT: as one path of the forward process, x_k from x_{k+1}. Noises of a reverse-SDE method are then
        uncorrelated with each other and the start, of variance 1 + O(h) for an exact denoiser: DPM-Encoder of
        CycleDiffusion (Wu and De la Torre 2022, arXiv 2210.05559), started at the last node.
    INDEPENDENT: each from x_N on its own. Noises have variance about 1/h, [1 + (e^h - 2)^2]/(e^{2h} - 1) for
        `SDEDPMSolver`, and neighbours are anticorrelated: they hold on to the data more strongly.
        Edit-friendly DDPM inversion (Huberman-Spiegelglas et al. 2023, arXiv 2304.06140).
    """

    JOINT = "joint"
    INDEPENDENT = "independent"

    def __repr__(self) -> str:
        return self.name


@checked
def recover_noise(
    model: Model,
    plan: Plan,
    x0: State,
    *,
    cond: Any = None,
    noise: Noise,
    encoding: Encoding = Encoding.JOINT,
) -> tuple[State, GivenNoise]:
    """(start, noises) from which `plan` gives x0 back to round-off; run again under another `cond` they edit it.

    States x_k are drawn at the nodes, x_N = x0, with r = k + 1 (JOINT) or r = N (INDEPENDENT):

        x_k = (alpha_k/alpha_r) x_r + sigma_k sqrt(1 - e^{-2 (lambda_r - lambda_k)}) noise(k)

    then the plan is run from x_0 and the Combine that draws in step k is solved for its draw: c xi = x_{k+1}
    - (other terms), in float64. The other terms are those of the run itself, so a draw also makes good the
    rounding before it. A corrected method is solved at its predicted point, and corrects on from there.

    Args:
        x0: (B, ...), a sample at the plan's last node. Where sigma is small there, clean data will do.
        cond: of the data as they are.
        noise: what the states are drawn with, slots 0 .. N-1; give it a stream that the run does not use.

    Returns:
        The start (B, ...) and noises (slots, B, ...) in x0's dtype and form. The start is not free of x0: it is q(x_0
        | x_N).

    Raises:
        ValueError: a step without one draw of its own to solve for. A step to sigma = 0 is one: its result is
            the denoiser's, which cannot be steered (the papers leave x0 there to the network); end the grid
            at sigma > 0.

    Cost: one run of the plan and N + 1 float64 states. Differentiable by ordinary autograd: call it under
    `torch.no_grad()` where nothing needs a gradient.
    """
    if not isinstance(encoding, Encoding):
        raise ValueError(
            f"recover_noise: got encoding={encoding!r}, expected an Encoding, such as Encoding.JOINT"
        )
    draws = [_draw(plan, step) for step in range(plan.steps)]
    packing = packing_of(x0)
    x0 = packing.pack(x0)
    check_state(x0, name="x0")
    noise.check(plan.steps, x0)
    states = _encoded(plan, x0, noise, encoding)
    steering = _Steering(
        {slot: (_scale(plan, c, x0), state) for (c, slot), state in zip(draws, states[1:], strict=True)}
    )
    start = states[0].to(x0.dtype)
    run(packing.model(model), plan, start, cond, steering)
    drawn = torch.stack([steering.drawn[slot] for slot in range(plan.slots)])
    return packing.unpack(start), GivenNoise(packing.unpack(drawn, lead=1))


class _Steering(Noise):
    """Answers a slot with what carries the sum that the draw joins, `like`, to the state wanted there."""

    def __init__(self, wanted: dict[int, tuple[Tensor, Tensor]]) -> None:
        self.wanted, self.drawn = wanted, {}

    def check(self, slots: int, like: Tensor) -> None:
        pass

    def __call__(self, slot: int, like: Tensor) -> Tensor:
        c, state = self.wanted[slot]
        self.drawn[slot] = ((state - like.double()) / c).to(like.dtype)
        return self.drawn[slot]


def _draw(plan: Plan, step: int) -> tuple[Coefficient, int]:
    """The (scale, slot) of the one draw of `step`, which must land on its end node."""
    ops, t = plan.step(step), plan.times[step + 1]
    found = [(k, op) for k, op in enumerate(ops) if isinstance(op, Combine) and op.noise]
    count = sum(len(op.noise) for _, op in found)
    steered = "DDPM, DDIM(eta > 0), SDEDPMSolverPP, ERSDE or SASolver with PEC"
    if count != 1:
        clean = bool((plan.process.sigma(as_time(t)) == 0).any())
        change = "end the grid at sigma > 0" if clean else f"take {steered}, inside 0 < sigma/alpha < inf"
        raise ValueError(
            f"{plan.name}: got {count} draws in step {step}{', which ends at sigma = 0' if clean else ''}, "
            f"expected one in every step to solve for; {change}"
        )
    ((k, op),) = found
    after = ops[k + 1 :]
    final = op.out == "x" and not any("x" in writes(later) for later in after)
    predicted = any(isinstance(later, Evaluate) and (later.src, later.t) == (op.out, t) for later in after)
    if not final and (step + 1 == plan.steps or not predicted):
        raise ValueError(
            f"{plan.name}: got a draw in step {step} that more of the step follows, expected it at the "
            f"step's end node, where the state is known; take {steered}"
        )
    return op.noise[0]


def _encoded(plan: Plan, x0: Tensor, noise: Noise, encoding: Encoding) -> list[Tensor]:
    """States at the N + 1 nodes in float64, first to last."""
    t = torch.tensor(plan.times, dtype=torch.float64)
    alpha, sigma, lam = plan.process.alpha(t), plan.process.sigma(t), plan.process.lam(t)
    states = [x0.double()]
    for k in range(plan.steps - 1, -1, -1):
        r = k + 1 if encoding is Encoding.JOINT else plan.steps
        spread = sigma[k] * (-torch.expm1(2 * (lam[k] - lam[r]))).sqrt()
        states.append(
            _broadcast(alpha[k] / alpha[r], x0) * (states[-1] if encoding is Encoding.JOINT else states[0])
            + _broadcast(spread, x0) * noise(k, states[0])
        )
    return states[::-1]


def _scale(plan: Plan, c: Coefficient, like: Tensor) -> Tensor:
    """The factor c of a draw, float64, shaped to broadcast."""
    first = c[0] if isinstance(c, tuple) else c
    if isinstance(first, PerElement):
        maps = c if isinstance(c, tuple) else (c,)
        return PerElement.bound(maps, like.shape, dtype=torch.float64, device=like.device)  # type: ignore[arg-type]
    if isinstance(first, LinearMap):
        plan.check_numbers("recover_noise")  # states are drawn by the process, which knows no parts
    return _broadcast(c, like)  # type: ignore[arg-type]


def _broadcast(value: Time | Tensor, like: Tensor) -> Tensor:
    return per_sample(as_time(value).to(like.device), like)
