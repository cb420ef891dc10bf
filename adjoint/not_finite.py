"""Samples that are not finite: which, since where, and how their batch mates are kept.

Selecting the finite rows of a result is not enough. The cotangent of a row that was left out is 0, and inside the
network 0 * NaN is NaN: in the gradient of a weight, which is a sum over the batch, one such row spoils the others.
So the run is made again, with the lost samples taking no part in any network call.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ..solvers import Call, GivenNoise, Model
from ..solvers.broadcast import per_sample
from ..solvers.per_step import PerStep
from .replay.model_around import ModelAround
from .replay.rollout import Registers, Rollout
from .transforms import bare, finite


def lost(*states: Tensor) -> Tensor:
    """(B,) whether a sample is not finite in any of `states` (B, ...)."""
    rows = [state.detach()[..., None].flatten(1).isfinite().all(1) for state in states]
    return ~torch.stack(rows).all(0)


def blanked(state: Tensor, gone: Tensor) -> Tensor:
    """`state` with NaN for the samples that are `gone`; no gradient passes there."""
    return torch.where(per_sample(gone, state), torch.nan, state)


def without(rollout: Rollout, registers: Registers, gone: Tensor) -> tuple[Rollout, Registers]:
    """The run once more, unwatched, in which the samples that are `gone` are finite and meet no network.

    They start as copies of a batch mate, and in every network call the batch mate's state stands in for theirs. What
    else was given for them and is not finite is 0.
    """
    mate = int((~gone).int().argmax())
    rows = torch.where(gone, mate, torch.arange(len(gone), device=gone.device))
    noise = rollout.noise
    again = replace(
        rollout.quiet(),
        model=_Without(rollout.model, rows),
        cond=tree_map(_zeroed, rollout.cond),
        noise=GivenNoise(_zeroed(noise.values)) if isinstance(noise, GivenNoise) else noise,
        controls=_zeroed(rollout.controls),
    )
    return again, {name: value.index_select(0, rows) for name, value in registers.items()}


def not_finite(rollout: Rollout, registers: Registers, out: Tensor) -> FloatingPointError:
    """What to raise for the sample `out`. The run is made once more to say where it went wrong: the loop itself
    reads no flag from the device.
    """
    quiet, which = rollout.quiet(), _for_samples(out)
    none_left = bool(bare(lost(out)).all())  # then no `keep_finite` helps
    others = "" if none_left else ", or let the others pass with keep_finite=True"

    def watched(call: Call, state: Tensor) -> Tensor:
        prediction = quiet.evaluate(call, state)
        for what, tensor in (("state before", state), ("network output at", prediction)):
            if not finite(tensor):
                raise FloatingPointError(
                    f"NaN or infinity in the {what} step {call.step} (call {call.index}, t="
                    f"{bare(call.t).flatten()[0].item():.6g}){_for_samples(tensor)}; at the end{which or ' too'}: "
                    f"expected finite values; check the network there, its dtype, and the ends of the grid{others}"
                )
        return prediction

    with torch.no_grad():
        try:
            quiet.execute(dict(registers), watched)
        except FloatingPointError as error:
            return error
    return FloatingPointError(
        f"NaN or infinity{which}, but in a replay every network call was finite: the network is not "
        "deterministic, or the last step overflows; fix its seeds, or check the ends of the grid"
    )


def which_samples(gone: Tensor) -> str:
    """The samples that are gone, as a message lists them: the first eight."""
    found = gone.nonzero().flatten().tolist()
    more = f" and {len(found) - 8} more" if len(found) > 8 else ""
    return f"samples {found[:8]}{more} of {len(gone)}"


def _for_samples(state: Tensor) -> str:
    """for samples ...; nothing inside torch.func, where the batch axis may be another."""
    return f" for {which_samples(lost(state))}" if bare(state) is state else ""


def _zeroed(value: Any) -> Any:
    """`value` with 0 where it is not finite."""
    if isinstance(value, PerStep):
        return PerStep(_zeroed(value.values))
    if isinstance(value, Tensor) and value.is_floating_point():
        return torch.where(value.isfinite(), value, 0.0)
    return value


class _Without(ModelAround):
    """A model that is called on `rows` of the batch, whatever the others hold."""

    def __init__(self, model: Model, rows: Tensor) -> None:
        super().__init__(model)
        self.rows = rows

    def _called(self, model: Callable[..., Tensor], x: Tensor, t: Tensor, cond: Any) -> Tensor:
        out = model(x.index_select(0, self.rows), t.index_select(0, self.rows), cond)
        if not finite(out):
            raise FloatingPointError(
                f"keep_finite: got conditioning for which the network is not finite whatever the state, for "
                f"{which_samples(lost(out))}, expected the cause in their states; leave them out of the batch"
            )
        return out
