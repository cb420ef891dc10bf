"""Singular directions of a sampler: along which of its inputs the sample moves most."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...solvers import Addressed, Model, Noise, Plan
from ...solvers.broadcast import per_sample
from ...solvers.checked import checked
from ...solvers.notebook import Shown
from ...solvers.opening import carried
from ...solvers.wanted import Count, Positive, Samples
from ..strategies.checkpoint import Checkpoint
from ..strategies.gradient import Gradient
from .call_jvp import CallJVP, ForwardMode
from .linearisation import Linearisation, exactness, linearised


@dataclass(frozen=True, eq=False, repr=False)
class SingularDirections(Shown):
    """J v_i = s_i u_i of each sample's Jacobian J, greatest first.

    Attributes:
        values: (B, k), s_i.
        vectors: (B, k, ...), v_i at x, orthonormal; the sign is free.
        images: (B, k, ...), J v_i = s_i u_i, how the sample moves.
        error: (B,), the greatest |J^T J v_i - s_i^2 v_i| / s_1^2.
        sample: (B, ...), the sample at x.
        products: how many with J, and as many with J^T.
    """

    values: Tensor
    vectors: Tensor
    images: Tensor
    error: Tensor
    sample: Tensor
    products: int


@checked
def singular_directions(
    denoiser: Model,
    plan: Plan,
    x: Samples,
    k: Count = 3,
    *,
    cond: Any = None,
    noise: Noise | Tensor | None = None,
    controls: Tensor | None = None,
    extra: Count = 2,
    rounds: Count = 8,
    tolerance: Positive = 1e-3,
    start: Addressed = Addressed(0, stream=2),
    gradient: Gradient = Checkpoint(),
    by: CallJVP = ForwardMode(),
) -> SingularDirections:
    """The k greatest singular values and directions of J = d sample / dx, sample by sample: power iteration on a block
    of k + extra directions, all of whose powers are kept (block Lanczos with Rayleigh and Ritz's values).

    J v_1 is the greatest change of the sample that a unit step at x makes: what a picture varies in most easily.

    Args:
        x: (B, ...), the state at the plan's first time.
        extra: directions beside the k, for values that lie close.  rounds: blocks, at most.
        tolerance: of `error`, which a sample is left alone at.
        start: where the first block is drawn.

    Raises:
        ValueError: as `linearised`; k greater than a sample has numbers; no sample.
        RuntimeError: where J and J^T are not of one matrix for each sample.

    Cost: at most rounds (k + extra) JVPs and as many VJPs of a run, of N calls each, at the states of one: a few rounds
    suffice for well separated values. Memory: twice as many states. Source: Musco and Musco 2015, arXiv 1504.05477,
    algorithm 2.
    """
    if not len(x):
        raise ValueError("x: got 0 samples, expected at least one; pass x of shape (B, ...) with B > 0")
    size = x[0].numel()
    if k > size:
        raise ValueError(f"k: got {k}, expected at most {size}, the numbers of a sample")
    x = carried(x)
    linear = linearised(
        denoiser, plan, x, cond=cond, noise=noise, controls=controls, gradient=gradient, by=by
    )
    width = min(k + extra, size)
    block = torch.stack([start(slot, x).flatten(1) for slot in range(width)], 2)  # (B, d, width)
    space = images = squares = block[:, :, :0]  # V, J V, J^T J V
    best: tuple[Tensor, ...] | None = None
    for _ in range(rounds):
        block = _cleared(block, space)[:, :, : size - space.shape[2]]
        moved, back = _products(linear, block, x)
        _check_transposes(block, moved, back, exactness(linear))
        space, images = torch.cat([space, block], 2), torch.cat([images, moved], 2)
        squares = torch.cat([squares, back], 2)
        small = space.mT @ squares
        values, turn = torch.linalg.eigh((small + small.mT) / 2)
        values, turn = values.flip(1)[:, :k], turn.flip(2)[:, :, :k]
        vectors = space @ turn
        off = (squares @ turn - values[:, None] * vectors).norm(dim=1).amax(1)
        error = off / values[:, 0].clamp(min=torch.finfo(x.dtype).tiny)
        found = values.clamp(min=0).sqrt(), vectors, images @ turn, error
        # one that was there already keeps what it had: its batch mates do not tell it to go on
        done = torch.zeros_like(error, dtype=torch.bool) if best is None else best[3] <= tolerance
        best = found if best is None else tuple(
            torch.where(per_sample(done, new), old, new) for old, new in zip(best, found, strict=True)
        )  # fmt: skip
        if bool((best[3] <= tolerance).all()) or space.shape[2] == size:
            break
        block = back
    assert best is not None
    values, vectors, images, error = best
    shape = (len(x), k, *x.shape[1:])
    return SingularDirections(
        values, vectors.mT.reshape(shape), images.mT.reshape(shape), error, linear.value, space.shape[2]
    )


def _products(linear: Linearisation, block: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """(J V, J^T J V), (B, d, w), column by column."""
    moved = [linear.jvp(column.reshape(like.shape)) for column in block.unbind(2)]
    back = [linear.vjp(each) for each in moved]
    return torch.stack([m.flatten(1) for m in moved], 2), torch.stack([b.flatten(1) for b in back], 2)


def _check_transposes(block: Tensor, moved: Tensor, back: Tensor, allowed: float) -> None:
    """Raise RuntimeError unless V^T (J^T J V) = (J V)^T (J V), sample by sample."""
    off = (block.mT @ back - moved.mT @ moved).abs().amax((1, 2))
    scale = moved.square().sum((1, 2)) + block.norm(dim=(1, 2)) * back.norm(dim=(1, 2))
    wrong = ~(off <= allowed * scale)
    if bool(wrong.any()):
        samples = wrong.nonzero()[:8, 0].tolist()
        raise RuntimeError(
            f"J V and J^T J V: got V^T (J^T J V) and (J V)^T (J V) {float((off / scale).max()):.2g} of their size "
            f"apart for samples {samples} of {len(block)}, expected the same: the network mixes the samples of a "
            "batch, or something in it has a tangent and no gradient (torch.no_grad inside?); pass one sample at a "
            "time, or by=DoubleBackward()"
        )


def _cleared(block: Tensor, space: Tensor) -> Tensor:
    """An orthonormal block without what lies in the space; twice, since once leaves what round-off brings back."""
    for _ in range(2):
        block = torch.linalg.qr(block - space @ (space.mT @ block)).Q
    return block
