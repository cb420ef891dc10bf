"""The lean adjoint, how the reward answers to a push at each visited state, and the loss that matches a control."""

import enum

import torch
from torch import Tensor

from .chain import Chain


class Pairing(enum.Enum):
    """Which adjoint step k, from x_k to x_{k+1}, is matched with.

    RIGHT: a_{k+1}, at the step's end, which makes the optimum of the chain of Gaussian steps stationary. LEFT:
    a_k, as in released code; the two differ by O(1/N).
    """

    RIGHT = 1
    LEFT = 0


def adjoint_path(base: Chain, states: Tensor, end: Tensor) -> Tensor:
    """a_k = J_k^T a_{k+1}, a_N = `end`, J_k the Jacobian of the base's noise-free step at x_k: the lean adjoint.

    The adjoint of the base chain alone; "lean" because terms whose mean is zero at the optimum are
    left out. Domingo-Enrich et al. 2024, arXiv 2409.08861, eq. 38-39, on the steps themselves. A multistep method's
    step reads earlier states too; their shares are added where they belong.

    Args:
        base: the frozen reference's chain. states: (N + 1, B, ...) as visited. end: (B, ...), -grad
            r(x_N)/beta.

    Returns:
        (N + 1, B, ...), detached. Deterministic steps are passed through like the others.

    Cost: N VJPs, one step's graph at a time.
    """
    n = base.transitions.plan.steps
    if states.shape != (n + 1, *end.shape):
        raise ValueError(
            f"adjoint_path: got states {tuple(states.shape)} and end {tuple(end.shape)}, expected "
            f"{(n + 1, *end.shape)} and the shape of one state"
        )
    adjoint = torch.zeros_like(states)
    adjoint[n] = end.detach()
    for k in range(n - 1, -1, -1):
        window = base.transitions.window(k)
        with torch.enable_grad():
            leaves = {j: states[j].detach().requires_grad_() for j in window}
            mean = base.mean([leaves.get(j, states[j]) for j in range(k + 1)], k)
            shares = torch.autograd.grad(
                mean, list(leaves.values()), adjoint[k + 1].to(mean.dtype), allow_unused=True
            )
        for j, share in zip(window, shares, strict=True):
            if share is not None:
                adjoint[j] += share.detach()
    return adjoint


def adjoint_matching_loss(m: Tensor, m0: Tensor, s: Tensor | float, adjoint: Tensor) -> Tensor:
    """|(m - m0)/s + s a|^2/2, (B,): zero where the step's mean is moved by the control -s^2 a. Source: as
    `adjoint_path`, eq. 37.

    Args:
        m: (B, ...) the policy's mean with its graph; m0: the base's. s: > 0. adjoint: (B, ...), a_{k+1}
            (`Pairing.RIGHT`) or a_k.
    """
    wide = torch.promote_types(torch.promote_types(m.dtype, m0.dtype), torch.float32)
    scale = torch.as_tensor(s, dtype=wide, device=m.device)
    off = (m.to(wide) - m0.detach().to(wide)) / scale + scale * adjoint.detach().to(wide)
    return 0.5 * off.flatten(1).square().sum(1)
