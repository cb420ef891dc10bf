"""`steer` where a sample is not finite, a callback or a network writes in place, or x is no state."""

import inspect
from dataclasses import dataclass

import pytest
import torch
from guides import ENDS, MODEL, SEEN
from problems import PROCESS

from pullback.guidance import DPS, TMPD, Guide, Through, steer
from pullback.solvers import DATA, DDIM, Denoiser, UniformLambda

PLAN = DDIM().plan(PROCESS, UniformLambda(4, **ENDS))
X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@dataclass(frozen=True)
class Log(Guide):
    """A guide that has no answer where a sample's first entry is negative at the start."""

    def data(self, ctx, data):
        return data + 0 * ctx.x[:, :1].log() if ctx.step == 0 else data


def test_one_sample_is_named_or_set_aside():
    x = X.abs()
    x[1, 0] = -1.0
    with pytest.raises(FloatingPointError, match=r"state: not finite at step 0 .* for samples \[1\] of 3"):
        steer(MODEL, PLAN, x, Log())
    with pytest.warns(RuntimeWarning, match=r"steer: not finite for samples \[1\] of 3"):
        found = steer(MODEL, PLAN, x, Log(), keep_finite=True)
    assert found.sample[1].isnan().all()
    alone = steer(MODEL, PLAN, x[[0, 2]], Log()).sample
    assert torch.allclose(found.sample[[0, 2]], alone, rtol=1e-12)
    with pytest.raises(FloatingPointError, match=r"for samples \[0\] of 1"):
        steer(MODEL, PLAN, x[1:2], Log(), keep_finite=True)
    with pytest.raises(ValueError, match="keep_finite: got through=.*expected Through.NOTHING"):
        steer(MODEL, PLAN, x, Log(), keep_finite=True, through=Through.FULL)


def test_a_guide_that_differentiates_keeps_batch_mates_apart():
    x = X.clone()
    x[2] = torch.nan
    with pytest.warns(RuntimeWarning, match=r"samples \[2\] of 3"):
        found = steer(MODEL, PLAN, x, TMPD(SEEN), keep_finite=True)
    assert torch.allclose(found.sample[:2], steer(MODEL, PLAN, X, TMPD(SEEN)).sample[:2], rtol=1e-10)


def test_what_writes_in_place_is_named():
    with pytest.raises(RuntimeError, match="callback: got a write to the state of step 0"):
        steer(MODEL, PLAN, X, Log(), callback=lambda k, t, state: state.zero_())
    with pytest.raises(RuntimeError, match="network call 0 of step 0: got a network that writes"):
        steer(Denoiser(lambda x, t: x.mul_(2), PROCESS, DATA), PLAN, X.abs(), Log())


def test_registers_and_trees_are_no_state():
    bare = inspect.unwrap(steer)  # without the tests' own check of types
    for x in ({"a": X}, [X], {"x": X, "y": X}):
        with pytest.raises(
            ValueError, match="x: got (dict|list), expected .*steer takes neither registers nor"
        ):
            bare(MODEL, PLAN, x, Log())
    with pytest.raises(ValueError, match=r"x: got shape \(4,\)"):
        steer(MODEL, PLAN, X[0], Log())


@pytest.mark.parametrize("guide", [DPS(SEEN), TMPD(SEEN)], ids=lambda g: type(g).__name__)
def test_inference_mode_is_blamed_on_nobody_else(guide):
    """Neither on the loss nor on the guide: no graph can be made there, as it is under no_grad."""
    with torch.inference_mode(), pytest.raises(ValueError, match="got a call under torch.inference_mode"):
        steer(MODEL, PLAN, X, guide)
    with torch.no_grad():
        found = steer(MODEL, PLAN, X, guide).sample
    assert torch.equal(found, steer(MODEL, PLAN, X, guide).sample)
