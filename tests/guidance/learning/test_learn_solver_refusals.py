"""What learn_solver refuses before the teacher's run: networks that draw, plans and features that do not fit."""

import pytest
import torch

from pullback.adjoint import sample
from pullback.guidance.learning import LearnedTimes, bespoke, learn_solver, s4s
from pullback.solvers import DDIM, DEIS, VP, ClassifierFree, Denoiser, DPMSolverPP, Guided, UniformLambda, V


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


@pytest.mark.parametrize("where", ["noise", "samples"])
def test_features_that_are_not_finite_are_refused(where):
    """Every comparison of a loss that is NaN is false: nothing would be learned, and nothing said."""
    model = Denoiser(lambda x, t: 0.1 * x, VP(), V)
    edge = -1e9 if where == "noise" else float(sample(model, TEACHER, noise(8), gradient=None).min())

    def features(x):  # the logarithm that someone meant to be one of pixels
        return (x - edge).log()

    with pytest.raises(FloatingPointError, match=r"features: got values that are not finite for \d of \d"):
        learn_solver(
            model, PLAN, TEACHER, noise(8), features=lambda x: features(x - 2e9 * (where == "noise"))
        )


ROWS = torch.linspace(1, 2, 8)


@pytest.mark.parametrize("learner", ["learn_solver", "s4s", "bespoke"])
@pytest.mark.parametrize(
    ("guidance", "said"),
    [((ROWS, None), r"scale \(8,\).*Guided"), ((ROWS[:, None], None), r"scale \(8, 1\)"),
     ((2.0, {"c": torch.zeros(8, 2)}), r"null \(8, 2\).*length 1")],
)  # fmt: skip
def test_guidance_of_each_row_is_refused_with_what_to_do(learner, guidance, said):
    seen = []
    inner = Denoiser(lambda x, t, cond=None: seen.append(1), VP(), V)
    model = ClassifierFree(inner, *guidance)
    asked = {
        "learn_solver": lambda: learn_solver(model, PLAN, TEACHER, noise(8)),
        "s4s": lambda: s4s(model, grid(5), TEACHER, noise(8)),
        "bespoke": lambda: bespoke(model, grid(5), TEACHER, noise(8)),
    }
    with pytest.raises(
        ValueError, match=f"{'s4s' if learner == 's4s' else 'learn_solver'}: got Classi.*{said}"
    ):
        asked[learner]()
    assert not seen


def test_what_that_refusal_advises_works():
    def network(x, t, cond):
        return 0.1 * x + cond

    given = noise(8) * 0.1
    model = ClassifierFree(Denoiser(network, VP(), V), 1.0, torch.zeros(1, 2))
    found = learn_solver(model, PLAN, TEACHER, noise(8), cond=Guided(given, ROWS), steps=1, progress=False)
    assert float(found.after.mean()) <= float(found.before.mean())


def test_s4s_of_one_step_says_what_else_there_is():
    with pytest.raises(ValueError, match="s4s: got a grid of 1 step.*learn_solver"):
        s4s(Denoiser(lambda x, t: x, VP(), V), grid(1), TEACHER, noise(8))
