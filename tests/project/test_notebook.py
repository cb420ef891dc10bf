"""What a cell shows whose last line is a plan or a result: one line, a table of text, never a tensor's numbers."""

import dataclasses
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
import torch

from pullback import adjoint, guidance, solvers
from pullback.adjoint import Checkpoint, Continuous, PerStep, audit, plan_gradient
from pullback.guidance import Mask, Measurement, Morph, adam, optimise, smc
from pullback.guidance.edit import Edit
from pullback.solvers import (
    DDIM,
    DDPM,
    VP,
    Addressed,
    ClassifierFree,
    Denoiser,
    DPMSolverPP,
    Mixture,
    UniformLambda,
    V,
)
from pullback.solvers.notebook import Shown, brief, form, mean_and_range, one_line, table

MEANS = torch.tensor([[1.0, 0.0], [-1.0, 0.5]], dtype=torch.float64)
MODEL = Mixture.isotropic(torch.ones(2, dtype=torch.float64), MEANS, 0.3).denoiser(VP())
PLAN = DPMSolverPP(2).plan(VP(), UniformLambda(5, start=1.0, end=0.05))
X = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Cells(HTMLParser):
    """A table's rows of text; a tag that is left open or unknown is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows, self.open = list[list[str]](), list[str]()
        self.caption = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert tag in ("table", "caption", "tr", "th", "td")
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1] == "caption":
            self.caption += data
        else:
            self.rows[-1][-1] += data


def results():
    found = optimise(
        MODEL, PLAN, lambda x: x.square().sum(1), X, optimiser=adam(0.1), steps=3, progress=False
    )
    noted = Morph(
        X[:, None],
        None,
        X[:, 0].abs(),
        X.abs()[None].repeat(2, 1, 1)[..., 0][:, None].repeat(1, 2, 1),
        7,
        5,
        3,
        None,
    )
    x = X.clone().requires_grad_()
    return {
        "plan": PLAN, "long plan": DDIM().plan(VP(), UniformLambda(400, start=1.0, end=0.05)),
        "result": found, "morph": noted, "gradient plan": plan_gradient(MODEL, PLAN, x),
        "audit": audit(MODEL, PLAN, x, lambda x: x.square().sum(1), {"a <b>": Checkpoint(), "flow": Continuous()}),
        "edit": Edit(X, {"x": X, "v": X}, 7, 3),
        "cloud": smc(MODEL, DDPM().plan(VP(), UniformLambda(3, start=1.0, end=0.05)), X[:, None].repeat(1, 8, 1),
                     lambda x, context: -x.square().sum(1), Addressed(0)),
        "measured": Measurement(Mask(torch.tensor([True, False])), torch.zeros(3, 1), 0.1),
        "none": dataclasses.replace(noted, images=X[:0, None], loss=X[:0, 0]),
    }  # fmt: skip


@pytest.fixture(scope="module")
def shown():
    torch.set_default_dtype(torch.float64)
    return results()


NAMES = (
    "plan",
    "long plan",
    "result",
    "morph",
    "gradient plan",
    "audit",
    "edit",
    "cloud",
    "measured",
    "none",
)


@pytest.mark.parametrize("name", NAMES)
def test_one_line_and_a_table(shown, name):
    thing = shown[name]
    line, page = repr(thing), thing._repr_html_()
    assert (
        "\n" not in line
        and len(line) < 100
        and line.startswith(f"<{type(thing).__name__}")
        and line[-1] == ">"
    )
    cells = Cells(page)
    assert len(cells.rows) > 2 and len({len(row) for row in cells.rows[:60]}) == 1
    assert "tensor(" not in line + page and len(page) < 20_000


def holding_tensors():
    """Every public class of ours that is a dataclass with a field that is a tensor, or may be one or a nesting."""
    found = {}
    for room in (solvers, adjoint, guidance):
        paths = [room.__name__, *(m.name for m in pkgutil.walk_packages(room.__path__, f"{room.__name__}."))]
        for module in map(importlib.import_module, paths):
            for thing in (getattr(module, name) for name in getattr(module, "__all__", ())):
                if inspect.isclass(thing) and dataclasses.is_dataclass(thing):
                    found[thing] = [
                        field.name
                        for field in dataclasses.fields(thing)
                        if re.search(r"\bTensor", str(field.type))
                        and not re.search("Callable|float", str(field.type))
                        and not field.name.startswith("_")
                    ]
    return {thing: names for thing, names in found.items() if names}


# parts of a run, and those with words of their own
INSIDE = {"Addressed", "DiffusersPipeline", "Rollout", "Context", "Morph", "Result"}


def test_no_public_dataclass_shows_a_tensors_numbers():
    """A tensor in a repr is a screen of numbers, in an error message too."""
    classes = holding_tensors()
    assert len(classes) > 30
    bare = {thing.__name__ for thing in classes if not issubclass(thing, Shown)}
    assert bare == INSIDE


def test_a_repr_never_raises():
    """It is asked for by debuggers and in errors: of what is on no device, under a transform, or half built."""
    torch.func.vmap(lambda v: (repr(PerStep(v)), v)[1])(torch.ones(3))
    assert "meta" in repr(PerStep(torch.ones(3, device="meta"))) and repr(object.__new__(Denoiser))
    assert "values" in repr(PerStep(torch.eye(3).to_sparse()[0]))


def test_a_model_says_its_network_prediction_and_process():
    net = torch.nn.Linear(2, 2)
    model = Denoiser(lambda x, t: net(x), VP(), V)
    assert repr(model) == f"<Denoiser: Linear, V under {VP()}>"
    assert repr(ClassifierFree(model, torch.ones(3))) == f"<ClassifierFree: Linear, V under {VP()}>"
    assert repr(Denoiser(lambda x, t: x, VP(), V)).startswith("<Denoiser: a function, V under VP(")


def test_a_plan_says_what_it_prints(shown):
    cells = Cells(PLAN._repr_html_())
    printed = str(PLAN).splitlines()
    assert cells.caption == printed[0]
    assert [f"{step:>4}  {op}" for step, op in cells.rows[1:]] == printed[1:]
    assert repr(PLAN).startswith("<Plan: 5 steps, 5 network calls, order 2, of DPMSolverPP(order=2")
    assert Cells(shown["long plan"]._repr_html_()).rows[-1][0].endswith("more; print shows all")


def test_a_result_says_what_was_found(shown):
    found = shown["result"]
    rows = dict(Cells(found._repr_html_()).rows[1:])
    assert (
        rows["loss"] == f"mean {found.loss.mean():.3g}, from {found.loss.min():.3g} to {found.loss.max():.3g}"
    )
    assert rows["at the start"].startswith(f"mean {found.losses[0].mean():.3g}")
    assert (
        rows["x"] == "(3, 2) float64 cpu" and rows["cost"] == f"{found.nfe} network calls, {found.vjps} VJPs"
    )
    assert f"{found.nfe} calls" in repr(found) and found.stop.value in rows["ended"]


def test_an_audit_says_its_rows_and_escapes_names(shown):
    found = shown["audit"]
    _, *rows = Cells(found._repr_html_()).rows
    assert [row[0] for row in rows] == [row.name for row in found.rows] and "a <b>" in rows[0][0] + rows[1][0]
    assert "<b>" not in found._repr_html_() and "&lt;b&gt;" in found._repr_html_()
    for cells, row in zip(rows, found.rows, strict=True):
        assert cells[1] == f"{row.error:.1e}" and cells[7:9] == [str(row.calls), str(row.vjps)]


def test_the_gradients_table_is_the_printed_one(shown):
    found = shown["gradient plan"]
    cells = Cells(found._repr_html_())
    assert [
        tuple(row) for row in cells.rows[1:]
    ] == found.rows() and cells.caption == f"limits: {found.limits}"
    assert "chosen" in repr(found)


def test_the_helpers():
    assert one_line("a\n  b" + "c" * 200).startswith("a bccc") and len(one_line("c" * 200)) == 99
    assert table(("<i>",), [["&"]] * 61).count("<tr>") == 62 and "<i>" not in table(("<i>",), [])
    assert (
        form({"a": torch.zeros(2, 3), "b": [torch.zeros(1, dtype=torch.int64)]})
        == "(2, 3) float64 cpu; (1,) int64 cpu"
    )
    assert form([torch.zeros(1)] * 5).endswith("; 2 more") and form(None) == "NoneType"
    assert mean_and_range(torch.tensor([1.0])) == "mean 1"
    assert mean_and_range(torch.tensor([1.0, 3.0])) == "mean 2, from 1 to 3"
    assert mean_and_range(torch.zeros(0)) == "of none" and brief(torch.tensor(0.12345)) == "0.1235"
    assert brief({"a": torch.zeros(2)}) == "(2,) float64 cpu" and brief({"a": 1}) == "1 of them"
    assert brief(net := torch.nn.Linear(1, 1)) == "Linear" and brief(type(net).forward) == "forward"


NOTEBOOK = """
import sys, types, warnings
warnings.simplefilter("error")
import pullback.guidance
assert "tqdm.auto" not in sys.modules, "loaded before a bar was asked for"
# what tqdm takes for a notebook; ipywidgets is not there
shell = type("ZMQInteractiveShell", (), {})()
sys.modules["ipykernel.zmqshell"] = types.ModuleType("zmqshell")
sys.modules["IPython"] = types.ModuleType("IPython")
sys.modules["IPython"].get_ipython = lambda: shell
sys.modules["ipywidgets"] = None
from pullback.solvers.progress import progress_bar
with progress_bar(range(3)) as bar:
    print(sum(bar))
"""


@pytest.mark.slow
def test_bars_are_loaded_late_and_warn_of_nothing():
    done = subprocess.run([sys.executable, "-c", NOTEBOOK], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout == "3\n", done.stderr
    assert re.search(r"3/3", done.stderr)
