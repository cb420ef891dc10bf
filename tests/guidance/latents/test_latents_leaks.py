"""What a step of `optimise`, an attack or a trajectory made is gone when the next one begins."""

import pytest
import torch
from problems import MIXTURE, PROCESS

from pullback.adjoint import Checkpoint, trajectory
from pullback.guidance import Linf, Over, d_flow, optimise, pgd
from pullback.solvers import DDIM, Addressed, UniformLambda

PLAN = DDIM(1.0).plan(PROCESS, UniformLambda(3, start=0.9, end=0.05))
MODEL = MIXTURE.denoiser(PROCESS)


def distance(x):
    return (x - 1).square().sum(1)


def optimised():
    optimise(
        MODEL,
        PLAN,
        distance,
        torch.zeros(2, 2),
        noise=Addressed(0),
        over=Over(noise=True),
        steps=2,
        progress=False,
    )


def attacked():
    pgd(lambda x: distance(MIXTURE.denoise(x, 0.8, 0.6)), torch.zeros(2, 2), Linf(0.3), steps=2, restarts=2)


def flowed():
    ode = DDIM().plan(PROCESS, UniformLambda(3, start=0.9, end=0.05))
    d_flow(MODEL, ode, distance, torch.ones(2, 2), steps=2, progress=False)


def walked():
    x = torch.zeros(2, 2, requires_grad=True)
    states = trajectory(MODEL, PLAN, x, [1, 2, 3], noise=Addressed(0), gradient=Checkpoint())
    torch.stack([state.square().sum() for state in states]).sum().backward()


@pytest.mark.parametrize("work", [optimised, attacked, flowed, walked])
@pytest.mark.parametrize("turns", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_live_tensors_stay_flat(live, work, turns):
    counts = []
    for turn in range(turns):
        work()
        if turn in (turns // 4, turns - 1):
            counts.append(live())
    assert counts[1] <= counts[0], counts


def test_the_rows_of_one_run_are_all_that_grows_with_its_steps(live):
    """200 steps of one `optimise` keep a row of losses each, and nothing else."""
    counts = []

    def counted(x):
        if len(counts) < 30:
            counts.append(live())
        return distance(x)

    optimise(MODEL, PLAN, counted, torch.zeros(2, 2), noise=Addressed(0), steps=30, progress=False)
    assert counts[29] - counts[9] <= 20 + 1, counts
