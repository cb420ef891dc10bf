"""What is cut off keeps its gradient at the ends themselves, under every torch: 2.15's own clamp gives 0 there."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pullback.guidance.measurements import Clipping
from pullback.guidance.recognition.chip import RealLevels
from pullback.guidance.rewards import Brightness
from pullback.solvers import Clamp, CosineVP, DiscreteVP, LabelTable, LevelIndex
from pullback.solvers.cut_off import cut_off

TABLE = DiscreteVP((1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_value_and_gradient_of_a_cut(dtype):
    x = torch.tensor([-2.0, -1.0, 0.5, 3.0, 4.0], dtype=dtype, requires_grad=True)
    inside = [0.0, 1.0, 1.0, 1.0, 0.0]
    found = cut_off(x, -1.0, 3.0)
    assert torch.equal(found, x.clamp(-1.0, 3.0)) and found.dtype == dtype
    found.sum().backward()
    assert x.grad is not None and x.grad.tolist() == inside
    at = x.detach()
    along = torch.func.jvp(lambda x: cut_off(x, -1.0, 3.0), (at,), (torch.ones_like(at),))[1]
    assert along.tolist() == inside
    assert torch.equal(cut_off(at, high=0.5), at.clamp(max=0.5)) and torch.equal(cut_off(at), at)
    assert bool(cut_off(torch.full((1,), math.nan, dtype=dtype), -1.0, 3.0).isnan())


ENDS: dict[str, tuple[Callable[[Tensor], Tensor], list[float], float]] = {
    "colours": (RealLevels(), [0.0, 255.0], 1.0),  # of pixels that are black and white
    "measurement": (Clipping(low=-1.0, high=1.0, gain=1.0).A, [-1.0, 1.0], 1.0),
    "prediction": (Clamp(), [-1.0, 1.0], 1.0),
    "reward": (
        lambda x: Brightness().clip(0.0, 1.0).score(x[:, None, None, None], None), [-1.0, 1.0], 0.5
    ),
    "label of a table": (lambda t: LabelTable(torch.tensor([5.0, 25.0, *range(26, 1024)]))(t, TABLE), [0.0], 20.0),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
def test_at_an_end_the_gradient_is_that_of_the_inside(name):
    function, ends, slope = ENDS[name]
    x = torch.tensor(ends, requires_grad=True)
    function(x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [slope] * len(ends)


def test_the_label_of_a_level_moves_with_time():
    """Its slope at a level is the limit from above, from which it has not moved yet at 1e-7."""
    t = torch.tensor([1.0, 10.0, 500.0], requires_grad=True)
    beside = (t.detach() + 1e-7).requires_grad_()
    for at in (t, beside):
        LevelIndex()(at, TABLE).sum().backward()
    assert t.grad is not None and beside.grad is not None
    assert torch.allclose(t.grad, beside.grad, rtol=1e-5) and float(t.grad.min()) > 0.5


def test_the_cosine_process_drifts_at_its_start():
    """f(0) = -c cot(c) with c = pi / 2 / (1 + s)."""
    process = CosineVP()
    c = math.pi / 2 / (1 + process.s)
    assert float(process.f(0.0)) == pytest.approx(-c / math.tan(c), rel=1e-12)
