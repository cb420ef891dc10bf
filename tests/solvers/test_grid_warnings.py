"""Grids that are legal and hardly meant warn; those that are meant do not."""

import warnings
from typing import Any

import pytest
import torch

from pullback.guidance import edit
from pullback.solvers import (
    DDIM,
    EDM,
    FLOW,
    VP,
    Addressed,
    CosineVP,
    Denoiser,
    DiscreteVP,
    DPMSolverPP,
    FlowEuler,
    GivenTimes,
    Karras,
    Leading,
    Linspace,
    Mixture,
    Quadratic,
    RectifiedFlow,
    Rising,
    Shifted,
    Trailing,
    UniformLambda,
    UniformT,
)

TABLE = DiscreteVP(torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0))
TIMES = torch.linspace(1.0, 0.05, 6, dtype=torch.float64)

MISTAKEN = {
    "0 to 1 on a table": (
        TABLE,
        UniformLambda(20, start=1.0, end=0.03),
        "expected indices into its table, 999",
    ),
    "times of 0 to 1 on a table": (TABLE, TIMES.tolist(), r"write UniformLambda\(n, start=999.0"),
    "times of 0 to 1 on eleven levels": (
        DiscreteVP(torch.linspace(0.9, 0.1, 11)),
        [1.0, 0.0],
        "expected indices into its table, 10",
    ),
    "Karras on a table": (TABLE, Karras(20, start=1.0, end=0.0), r"write Karras\(n, start=999.0"),
    "rising": (
        VP(),
        UniformLambda(20, start=0.03, end=1.0),
        r"rise from data to noise.*write Rising\(grid\)",
    ),
    "rising tensor": (RectifiedFlow(), TIMES.flip(0), "swap start and end"),
    "rising for every sample": (VP(), torch.stack([TIMES, TIMES], 1).flip(0), "rise from data"),
    "next to the data": (VP(), UniformT(20, start=0.02), "expected a start near noise, at t=1"),
    "0 to 1 for EDM's sigma": (EDM(), Karras(20, start=0.1, end=0.002), "near noise, at t=80"),
}
MEANT = {
    "the whole way": (VP(), UniformLambda(20, start=1.0, end=0.03)),
    "from alpha = 0": (CosineVP(), UniformT(20)),
    "a table": (TABLE, UniformLambda(20, start=999.0, end=0.0)),
    "trailing": (TABLE, Trailing(20)),
    "leading": (TABLE, Leading(20)),
    "linspace": (TABLE, Linspace(20)),
    "one step of a table": (TABLE, GivenTimes([999.0, -1.0])),
    "a small table": (DiscreteVP(torch.tensor([0.9, 0.1])), UniformT(2)),
    "an end of ten levels": (DiscreteVP(torch.linspace(0.9, 0.1, 10)), [1.0, 0.0]),
    "SDEdit": (VP(), UniformLambda(10, start=0.15, end=0.02)),
    "the last tenth of a flow": (RectifiedFlow(), UniformT(8, start=0.1, end=0.0)),
    "SDEdit on a table": (TABLE, UniformT(10, start=200.0, end=0.0)),
    "EDM": (EDM(), Karras(18, start=80.0, end=0.002)),
    "shifted": (RectifiedFlow(), Shifted(20)),
    "quadratic": (VP(), Quadratic(20)),
    "every time by hand": (VP(), [0.05, 0.03, 0.01]),
    "rising on purpose": (VP(), Rising(UniformLambda(20, start=1.0, end=0.03))),
    "rising times on purpose": (VP(), Rising([0.1, 0.5, 0.9])),
}


@pytest.mark.parametrize("name", MISTAKEN)
def test_a_mistaken_grid_warns(name):
    process, grid, words = MISTAKEN[name]
    with pytest.warns(UserWarning, match=r"grid: got times .*, expected .*; ") as found:
        DDIM().plan(process, grid)
    assert len(found) == 1
    with pytest.warns(UserWarning, match=words):
        DDIM().plan(process, grid)


@pytest.mark.parametrize("name", MEANT)
def test_a_grid_that_is_meant_does_not(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DDIM().plan(*MEANT[name])


def test_rising_turns_a_grid_round():
    """The way up is the way down, node by node, whichever direction was given."""
    grid, process = UniformLambda(5, start=1.0, end=0.03), VP()
    times = grid.times(process)
    for given in (grid, times, times.flip(0), Rising(grid)):
        assert torch.equal(Rising(given).times(process), times.flip(0))
    columns = torch.stack([times, times * 0.9], 1)
    assert torch.equal(Rising(columns).times(process), columns.flip(0))
    assert DDIM().plan(process, Rising(grid)).times == DDIM().plan(process, grid).times[::-1]


def test_what_the_library_plans_by_itself_is_meant():
    """Inversions rise, edits and lookaheads start anywhere."""
    law = Mixture.isotropic(torch.ones(2), torch.eye(2), 0.3)
    x = torch.randn(2, 2)
    same: dict[str, Any] = {"source": None, "target": None}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        on_table = UniformT(6, start=999.0, end=0.0)
        for process, grid in ((VP(), UniformLambda(6, start=0.9, end=0.02)), (TABLE, on_table)):
            edit.ddim_inversion(law.denoiser(process), x, grid=grid, **same)
        flow = Denoiser(lambda x, t: -x, RectifiedFlow(), FLOW)
        edit.rf_inversion(flow, x, grid=UniformT(6), **same)
        edit.flow_edit(flow, x, noise=Addressed(0), grid=UniformT(6), n_max=2, n_min=1, n_avg=1, **same)
        edit.ode_inversion(flow, x, grid=UniformT(6), method=FlowEuler(), **same)
        plan = DPMSolverPP(2).plan(VP(), UniformLambda(6, start=0.4, end=0.02))
        edit.sdedit(law.denoiser(VP()), plan, x, noise=Addressed(0), target=None)
