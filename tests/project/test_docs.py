"""The pages: every block of code runs, every link leads somewhere, every public name is shown, and each recipe of
docs/extending.md passes the laws that sweep the library's own.
"""

import ast
import functools
import importlib.util
import json
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pages
import pytest
import torch
from guides import MODEL, PLAN, SEEN

from pullback import adjoint
from pullback.adjoint import Checkpoint
from pullback.guidance import OverBatch, PiGDM, Scale, Tweedie, steer
from pullback.solvers import EDM, VP, CosineVP, DPMSolverPP, RectifiedFlow, V

README = pages.ROOT / "README.md"
TUTORIALS = sorted((pages.ROOT / "docs" / "tutorials").glob("*.md"))
RUNNABLE = [page for page in pages.PAGES if list(pages.blocks(page)) and page not in (README, *TUTORIALS)]
DOCS = [page for page in pages.PAGES if page.is_relative_to(pages.ROOT / "docs")]
PORTING = [page for page in pages.PAGES if page.parent.name == "porting"]
named: Callable[[pathlib.Path], str] = lambda page: str(page.relative_to(pages.ROOT))  # noqa: E731


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    """A folder that looks like the repository's root to a page, whose files do not stay; float32, as users have it."""
    (tmp_path / "examples").symlink_to(pages.ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    torch.set_default_dtype(torch.float32)
    return tmp_path


# the blocks
# ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", RUNNABLE, ids=named)
def test_every_block_runs(page, at_home):
    """A page's blocks in order, in one namespace, with nothing supplied. A block of a library that is not there is
    said to be skipped, after the others have run.
    """
    if left_out := pages.run(page)["left out"]:
        pytest.skip(", ".join(f"line {line}: no {library}" for line, library in left_out))  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=named)
def test_every_tutorial_runs_and_prints_the_committed_numbers(page, at_home):
    """As pasted into an empty folder; its picture and numbers are those of docs/tutorials/pictures.py, but for
    what another machine's rounding moves along a descent."""
    (at_home / "examples").unlink()  # a tutorial needs no checkout
    found = pages.run(page)["numbers"]
    assert isinstance(found, dict)
    committed = json.loads((pages.ROOT / "benchmarks" / "results" / "tutorials.json").read_text())[page.stem]
    assert set(found) == set(committed)
    for name, value in committed.items():
        assert float(found[name]) == pytest.approx(value, rel=0.1, abs=0.1), name
    drawn, kept = at_home / f"{page.stem}.png", page.with_suffix(".png")
    assert drawn.exists() and kept.exists() and kept.stat().st_size < 150_000
    assert kept.name in pages.links(page)


def test_the_first_tutorial_is_twenty_lines():
    ((_, source),) = pages.blocks(pages.ROOT / "docs" / "tutorials" / "quickstart.md")
    assert len(source.strip().splitlines()) <= 20


def test_the_quickstart_is_short_and_draws(at_home):
    """The README, as pasted from the root of a checkout."""
    (_, source), *_ = pages.blocks(README)
    assert len(source.strip().splitlines()) <= 20
    pages.run(README)
    assert list(at_home.glob("*.png"))


@pytest.mark.parametrize("page", pages.PAGES, ids=named)
def test_blocks_say_their_language(page):
    fences = re.findall(r"^```(.*)$", page.read_text(), re.M)
    assert not set(fences[::2]) - {"python", "sh", "text"} and not any(fences[1::2])


# links and names
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", pages.PAGES, ids=named)
def test_links_lead_somewhere(page):
    for link, heading in pages.anchored(page):
        assert (page.parent / link).exists(), link
        assert not heading or heading in pages.headings(page.parent / link), f"{link}#{heading}"


def test_the_index_and_the_pages_link_to_each_other():
    index = set(pages.links(pages.INDEX))
    readme = set(pages.links(README))
    assert "docs/index.md" in readme
    for page in DOCS:
        if page != pages.INDEX:
            where = page.relative_to(pages.INDEX.parent)
            assert where.as_posix() in index, where
            if page.name not in ("inverse.md", "reward-results.md"):  # written by benchmarks
                back = {os.path.normpath(where.parent / link) for link in pages.links(page)}
                neighbours = {link for link in back if link.endswith(".md") and ".." not in link} - {
                    str(where)
                }
                assert "index.md" in back and len(neighbours - {"index.md"}) >= 1, where
    scripts = {f"../examples/{path.name}" for path in pages.EXAMPLES if "def main" in path.read_text()}
    assert scripts <= set(pages.links(pages.INDEX.parent / "examples.md"))


@pytest.mark.parametrize("page", PORTING, ids=named)
def test_a_porting_page_runs_on_both_sides(page):
    """It is found from the page on peers and leads back; ours runs whatever is installed, theirs where it is."""
    peers = page.parents[1] / "peers.md"
    assert f"porting/{page.name}" in pages.links(peers) and "../peers.md" in pages.links(page)
    sources = [(source, pages.needs(page, line)) for line, source in pages.blocks(page)]
    assert any("pullback" in source and not needed for source, needed in sources)
    assert any("assert" in source and not needed for source, needed in sources)
    assert any(needed for _, needed in sources) or page.name in (
        "torchdiffeq.md",
        "torchsde.md",
        "diffusers.md",
    )


@pytest.mark.parametrize("shelf", pages.SHELVES)
def test_every_public_name_is_shown(shelf):
    names = [name for where, name in pages.exported() if where == shelf]
    assert not [name for name in names if pages.home(shelf, name) is None], (
        "show them on a page or stop exporting them"
    )


def test_the_page_of_names_is_complete_and_true():
    """`python tests/support/pages.py` writes it anew."""
    text, found = pages.NAMES.read_text(), set()
    for section in text.split("\n## ")[1:]:
        shelf = section.splitlines()[0].removeprefix("pullback.")
        for name, link in re.findall(r"^\| `(\w+)` \| \[.*?\]\((.*?)\) \|$", section, re.M):
            assert pages.shows(pages.NAMES.parent / link, name), f"{name} is not in {link}"
            found.add((shelf, name))
    assert found == set(pages.exported())


def test_every_file_of_tests_has_its_line():
    """docs/laws.md, which mirrors the folders as the tests do."""
    listed = [link for link in pages.links(pages.ROOT / "docs" / "laws.md") if "test_" in link]
    there = [f"../{path.relative_to(pages.ROOT)}" for path in (pages.ROOT / "tests").rglob("test_*.py")]
    assert sorted(listed) == sorted(there)


# the recipes under the library's laws
# -----------------------------------------------------------------------------------------------------

PAGE = pages.ROOT / "docs" / "extending.md"


@functools.cache
def recipes() -> dict[str, Any]:
    return pages.run(PAGE)


@functools.cache
def laws(path: str) -> Any:
    """A file of the suite as a module of its own, whose sweeps may be widened."""
    spec = importlib.util.spec_from_file_location(
        "laws_" + pathlib.Path(path).stem, pages.ROOT / "tests" / path
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def files() -> Iterator[tuple[int, str]]:
    yield from (found for found in pages.blocks(PAGE) if found[1].startswith('"""'))


def lines_of_code(source: str) -> int:
    """Lines that are not blank, a comment or of a docstring."""
    quoted = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or 0) + 1)
    }
    lines = enumerate(source.splitlines(), 1)
    return sum(
        k not in quoted and not text.strip().startswith("#") and bool(text.strip()) for k, text in lines
    )


def test_a_recipe_is_a_file_of_at_most_25_lines():
    assert len(list(files())) == 7
    for line, source in files():
        assert lines_of_code(source) <= 25, f"extending.md:{line}"
        exec(source, {"__name__": "__main__"})  # by itself


def without_imports(source: str) -> list[str]:
    return [line for line in source.splitlines() if line and not line.startswith(("from ", "import "))]


def test_the_strategy_on_the_page_is_the_librarys_file():
    (page,) = (source for _, source in files() if "(Gradient)" in source)
    assert without_imports(page) == without_imports(
        (pages.ROOT / "adjoint" / "strategies" / "jacobian_free.py").read_text()
    )


def test_the_strategy_keeps_its_closed_forms(monkeypatch):
    found = laws("adjoint/test_jacobian_free.py")
    monkeypatch.setattr(found, "JacobianFree", recipes()["JacobianFree"])
    assert found.JacobianFree is not adjoint.JacobianFree
    found.test_held_data_gives_the_ratio_of_sigmas(DPMSolverPP(2))
    found.test_the_held_velocity_of_a_rectified_flow_gives_the_identity(DPMSolverPP(2))
    found.test_noise_and_controls_are_carried_by_the_same_ratios()
    found.test_nothing_is_kept()


def test_the_solver_passes_the_sweep():
    method = recipes()["TwoStep"]()
    laws("solvers/test_order.py").test_observed_order_is_the_declared_one(method)
    plans = laws("solvers/test_plan.py")
    for process in (VP(), CosineVP(), RectifiedFlow()):
        for n in (1, 2, 7):
            plans.test_infinite_ends_are_legal(process, method, n)
    plans.test_constant_predictions_are_integrated_exactly(method)
    plans.test_same_lambda_same_y_under_any_process(method)
    plans.test_printed_pickled_compared_and_costed(method)
    plans.test_per_sample_grids_equal_separate_plans(method)
    drawn = laws("solvers/test_laws.py").test_prediction_does_not_matter.hypothesis.inner_test
    drawn((CosineVP(), method, CosineVP().time(torch.tensor([-3.0, -1.0, 0.5, 3.0])), (2, 3)), V, 5)
    gradients = laws("adjoint/test_gradient.py")
    gradients.test_exact_strategies_equal_direct(method, Checkpoint(), torch.device("cpu"))
    gradients.test_gradcheck(method)
    gradients.test_batch_of_four_is_four_batches_of_one(method, torch.device("cpu"))


def test_the_guide_passes_the_sweep():
    guide = recipes()["UnitPosterior"](SEEN)
    found = laws("guidance/guides/test_guide.py")
    found.test_batch_mates_do_not_matter(guide)
    found.test_costs_are_counted_and_no_call_is_wasted(guide)
    ours, theirs = (
        steer(MODEL, PLAN, found.X, g, noise=found.NOISE_SOURCE)
        for g in (guide, PiGDM(SEEN, policy=Tweedie()))
    )
    assert torch.allclose(ours.sample, theirs.sample, rtol=1e-12, atol=1e-12)


def test_the_objective_passes_the_sweep(monkeypatch):
    make = recipes()["Reinforce"]
    found = laws("guidance/objectives/test_objectives.py")
    monkeypatch.setitem(found.OBJECTIVES, "page", make)
    found.test_two_processes_are_one("page")
    found.test_nothing_to_train_is_refused(make)
    found.test_a_plan_without_noise_is_refused(make)
    found.test_rewards_of_the_wrong_kind_are_refused(make)
    policy, batch = found.policy_on(), found.batch_of(found.PLAN, 8, 1, d=2)
    plain = found.DDPO(OverBatch(Scale.NONE), mode=found.Estimator.SF, mean=False, advantage_clip=None)
    ours, theirs = (found.gradients(objective, policy, batch)[0] for objective in (make(), plain))
    assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_the_reward_passes_the_sweep(monkeypatch):
    found = laws("guidance/rewards/test_rewards.py")
    monkeypatch.setattr(found, "scorers", lambda: {"page": (recipes()["Symmetry"](), None)})
    found.test_gradient_is_that_of_finite_differences_and_batch_mates_do_not_matter("page")


def test_the_measurement_passes_the_sweep():
    found = laws("guidance/measurements/test_operators.py")
    for operator in (recipes()["Every"](), recipes()["Every"](1)):
        found.test_linear_operators_are_what_they_claim(operator)
        for conjugate in (False, True):
            found.test_regularised_solve(operator, conjugate)


def test_the_process_passes_the_sweep(monkeypatch):
    process = recipes()["Trigonometric"]()
    found, plans = laws("solvers/test_conversion.py"), laws("solvers/test_plan.py")
    for part in (0.02, 0.5, 0.98):
        found.test_lambda_and_its_inverse.hypothesis.inner_test(process, part)
        found.test_drift_and_diffusion.hypothesis.inner_test(process, part)
    for n in (1, 2, 7):
        plans.test_infinite_ends_are_legal(process, DPMSolverPP(2), n)
    monkeypatch.setattr(plans, "PROCESS", process)
    plans.test_same_lambda_same_y_under_any_process(DPMSolverPP(2))
    drawn = laws("solvers/test_laws.py").test_prediction_does_not_matter.hypothesis.inner_test
    drawn((process, DPMSolverPP(2), process.time(torch.tensor([-3.0, -1.0, 0.5, 3.0])), (2, 3)), V, 5)
    slow = type("Bisected", (type(process),), {"time": EDM.__mro__[1].time})()
    assert torch.allclose(slow.time(process.lam(0.3)), torch.tensor(0.3, dtype=torch.float64), atol=1e-12)


def test_the_page_says_where_each_recipe_is_enrolled():
    """What it names exists: a sweep that moves takes the page with it."""
    text = PAGE.read_text()
    for path in re.findall(r"`((?:tests|solvers|adjoint|guidance)/[\w/.]*)`", text):
        assert (pages.ROOT / path).exists(), path
    for path, name in (
        ("support/problems.py", "VARIANTS"), ("support/problems.py", "every_method"), ("support/guides.py", "GUIDES"),
        ("guidance/objectives/test_objectives.py", "OBJECTIVES"), ("guidance/rewards/test_rewards.py", "scorers"),
        ("guidance/measurements/test_operators.py", "linear_operators"), ("solvers/test_laws.py", "PROCESSES"),
        ("solvers/test_conversion.py", "PROCESSES"), ("guidance/objectives/test_objectives.py", "ALL"),
    ):  # fmt: skip
        assert name in text and hasattr(laws(path), name), name
