"""What learn_solver refuses before the teacher's run: networks that draw, plans and features that do not fit."""

import pytest
import torch

from pullback.guidance.learning import LearnedTimes, learn_solver
from pullback.solvers import DDIM, DEIS, VP, Denoiser, DPMSolverPP, UniformLambda, V


def grid(n):
    return UniformLambda(n, 1.0, 0.02)


def noise(count):
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(0))


PLAN, TEACHER = DPMSolverPP(2).plan(VP(), grid(5)), DEIS(3).plan(VP(), grid(40))


@pytest.mark.parametrize("functional", [False, True])
def test_dropout_is_refused(functional):
    class Loud(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = torch.nn.Identity() if functional else torch.nn.Dropout(0.1)

        def forward(self, x, t):
            seen.append(len(x))
            out = 0.1 * x
            return torch.nn.functional.dropout(out, 0.1) if functional else self.drop(out)

    seen = []
    with pytest.raises(ValueError, match=r"learn_solver.*eval\(\)"):
        learn_solver(Denoiser(Loud(), VP(), V), PLAN, TEACHER, noise(8), progress=False)
    assert sum(seen) <= 1


def test_a_plan_of_one_step_and_features_of_no_axis_are_refused_before_any_call():
    seen = []
    model = Denoiser(lambda x, t: seen.append(1), VP(), V)
    one = DDIM().plan(VP(), grid(1))
    with pytest.raises(ValueError, match="LearnedTimes: got a plan of 1 step"):
        learn_solver(model, one, TEACHER, noise(8), learn=[LearnedTimes(DDIM())])
    for features in (lambda x: x.sum(1), lambda x: x.mean()):
        with pytest.raises(ValueError, match="features: got"):
            learn_solver(model, PLAN, TEACHER, noise(8), features=features)
    assert not seen
