"""Two hundred guided runs leave nothing behind."""

from collections.abc import Callable

import pytest
import torch
from guides import ENDS, MODEL, PROCESS, SEEN

from pullback.guidance import DPS, TMPD, Lookahead, Through, steer
from pullback.solvers import DDIM, Addressed, UniformLambda

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
SHORT = DDIM(0.8).plan(PROCESS, UniformLambda(3, **ENDS))


@pytest.mark.parametrize(
    "through",
    [Through.NOTHING, pytest.param(Through.FULL, marks=pytest.mark.slow)],
    ids=lambda through: through.value,
)
def test_two_hundred_runs_leave_nothing_behind(live: Callable[[], int], through: Through):
    """Live tensors after 20 runs of three guides and after 200; of runs that carry a graph too."""
    guides, counts = [DPS(SEEN), TMPD(SEEN), Lookahead(SEEN.nats, 2)], []
    for k in range(200):
        steer(MODEL, SHORT, X, guides[k % 3], noise=Addressed(k), through=through)
        if k in (20, 199):
            counts.append(live())
    assert counts[1] - counts[0] <= 2, counts
