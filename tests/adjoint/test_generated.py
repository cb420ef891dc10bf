"""Generated runs against plain loops: right, or an error that says what was got, what was expected, what to change.

`CASES=2000 pytest tests/adjoint/test_generated.py -k swept` makes as many.
"""

import os
import pathlib
from collections import Counter

import hypothesis
import pytest
import torch
from generated import judge as judge_module
from generated import subject as subject_module
from generated.cases import CONTAINERS, INGREDIENTS, LIBRARY, Case, cases
from generated.faults import FAULTS, OPEN, covers
from generated.judge import Judgement, Verdict, judge, smallest, unclear
from generated.reference import FORMULAS, by_numbers
from generated.subject import ByFormula, build

from pullback.solvers import DATA, FLOW, NOISE, SCORE, VP, RectifiedFlow, V

MADE = int(os.environ.get("CASES", "50"))


def swept(count: int) -> list[Judgement]:
    """As many cases, always the same ones."""
    found: list[Judgement] = []

    @hypothesis.settings(
        max_examples=count,
        derandomize=True,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),  # pyright: ignore[reportArgumentType]
    )
    @hypothesis.given(cases())
    def sweep(case: Case) -> None:
        found.append(judge(case))

    sweep()
    return found


def assert_no_new_fault(found: list[Judgement]) -> None:
    new = [j for j in found if j.fault and not any(covers(fault, j.case) for fault in OPEN)]
    assert not new, f"{len(new)}, some of them:\n" + "\n".join({str(smallest(j)) for j in new[:10]})


def test_swept():
    assert_no_new_fault(swept(MADE))


@pytest.mark.slow
def test_swept_long():
    """Mostly right answers, not refusals; everything there is to draw has been drawn and came out right somewhere."""
    found = swept(500)
    assert_no_new_fault(found)
    verdicts = Counter(judgement.verdict for judgement in found)
    judged = len(found) - verdicts[Verdict.UNJUDGED]
    assert verdicts[Verdict.RIGHT] >= 0.6 * judged and judged >= 0.9 * len(found), verdicts
    right = [judgement.case for judgement in found if judgement.verdict is Verdict.RIGHT]
    assert {str(case.strategy) for case in right} == set(map(str, LIBRARY))
    assert {case.container for case in right} == set(CONTAINERS)
    drawn = {ingredient for judgement in found for ingredient in judgement.case.ingredients}
    assert drawn == set(INGREDIENTS)


@pytest.mark.parametrize("ingredient", [kind for kind in INGREDIENTS if kind.ordinary], ids=str)
def test_what_is_ordinary_comes_out_right(ingredient):
    case = Case(ingredients=(ingredient,))
    if not any(covers(fault, case) for fault in OPEN):
        assert judge(case).verdict is Verdict.RIGHT


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_was_found_once(fault):
    """A fault in OPEN must still be there: when it is gone, its entry goes too."""
    found = [judge(case) for case in FAULTS[fault]]
    if fault in OPEN:
        assert any(judgement.fault for judgement in found), f"{fault} is mended: take it out of OPEN"
    else:
        assert not any(judgement.fault for judgement in found), "\n" + "\n".join(map(str, found))


PLAIN = [
    (ByFormula(formula, process), prediction)
    for formula in FORMULAS
    for process, predictions in ((VP(), (NOISE, DATA, V, SCORE)), (RectifiedFlow(), (DATA, NOISE, FLOW)))
    for prediction in predictions
    if not (process == VP() and "Flow" in str(formula.method))
]


@pytest.mark.parametrize("sampler, prediction", PLAIN, ids=str)
def test_the_two_plain_loops_agree(sampler, prediction):
    """The one over a plan's numbers is the one over the paper's formula."""
    subject = build(Case(sampler=sampler, prediction=prediction, steps=4), plainly=True)
    formula = sampler.run(subject, subject.x, 0)
    numbers = by_numbers(subject.plan, subject.loop, {"x": subject.x})
    assert torch.allclose(formula, numbers, rtol=1e-11, atol=1e-12 * float(formula.detach().abs().max()))


def test_the_judge_sees_a_wrong_number(monkeypatch):
    """A coefficient off by one in a million, and a gradient lost."""

    def off(*args, **kwargs):
        return sample(*args, **kwargs) * (1 + 1e-6)

    sample = subject_module.sample
    monkeypatch.setattr(subject_module, "sample", off)
    assert judge(Case()).verdict is Verdict.SILENT
    monkeypatch.setattr(
        subject_module, "sample", lambda model, plan, x, **more: sample(model, plan, x.detach(), **more)
    )
    assert "x: got None" in judge(Case()).told


@pytest.mark.parametrize(
    "told, missing",
    [
        ("x: got 3, expected a tensor; pass torch.tensor(3.0)", ""),
        ("x: got 3; pass a tensor", "what was expected"),
        ("x must be a tensor", "what it got"),
        ("x: got 3, expected a tensor", ""),  # of an argument: what was expected is what to pass
        ("the network had 3 layers, expected 4", "what to change"),
    ],
)
def test_the_grammar_of_an_error(told, missing, monkeypatch):
    monkeypatch.setattr(judge_module, "OURS", [pathlib.Path(__file__).resolve().parent])
    try:
        raise ValueError(told)
    except ValueError as error:
        assert missing in unclear(error) and bool(missing) == bool(unclear(error))
