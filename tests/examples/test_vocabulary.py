"""Examples speak with one set of flags and one set of colours, and show every method and strategy that there is."""

import functools
import importlib
import itertools
import json
import pathlib
import re
import sys

import common
import pytest
import torch

from pullback import adjoint, solvers

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
SCRIPTS = {path.stem: path for path in sorted(EXAMPLES.glob("*.py")) if "def main" in path.read_text()}
DRAWING = [name for name in SCRIPTS if not name.startswith("train")]


class Asked(Exception):
    """In the place of what `options` returns."""


@functools.cache
def own_flags(name: str) -> dict[str, object]:
    """What the script hands to `options`: its flags and their defaults."""
    script = importlib.import_module(name)

    def asked(doc: str, **flags: object) -> None:
        raise Asked(flags)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Asked) as found:
        patch.setattr(script, "options", asked)
        script.main()
    return found.value.args[0]


def told(name: str, monkeypatch, capsys) -> str:
    """What `--help` prints of the script's flags."""
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit):
        common.options(name, **own_flags(name))
    return capsys.readouterr().out


@pytest.mark.parametrize("name", DRAWING)
def test_shared_flags_mean_the_same(name, monkeypatch, capsys, tmp_path):
    """Where two examples take a flag, FLAGS says what it means, and `--help` says so in both."""
    uses = [flag for other in DRAWING for flag in own_flags(other)]
    said = " ".join(told(name, monkeypatch, capsys).split())
    for flag in own_flags(name):
        assert uses.count(flag) == 1 or flag in common.FLAGS, f"--{flag} in two examples, not in FLAGS"
        assert common.FLAGS.get(flag, "default") in said, flag
    monkeypatch.setattr(sys, "argv", [name, "--seed", "3", "--device", "cpu", "--out", str(tmp_path / "new")])
    found = common.options(name, **own_flags(name))
    assert (found.seed, found.device, found.out) == (3, "cpu", tmp_path / "new") and found.out.is_dir()


@pytest.mark.parametrize("name", SCRIPTS)
def test_steps_say_whose(name):
    """No bare --steps, and no second word for a flag of FLAGS."""
    flags = set(re.findall(r'"--([a-z-]+)"', SCRIPTS[name].read_text()))
    flags |= {flag.replace("_", "-") for flag in own_flags(name)} if name in DRAWING else set()
    others = {
        "steps",
        "nfe",
        "iterations",
        "samples",
        "evaluation",
        "draws",
        "faces",
        "quick",
        "work",
        "purification",
    }
    assert not flags & others


# colours
# ------------------------------------------------------------------------------------------------------------

# what an eye without one kind of cone sees of linear RGB: Machado et al. 2009, table 1, severity 1
EYES = {
    "all cones": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "no red": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "no green": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "no blue": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}  # fmt: skip


def rgb(colour: str) -> torch.Tensor:
    return torch.tensor([int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)])


@pytest.mark.parametrize("eye", EYES)
def test_colours_are_told_apart(eye):
    def seen(colour: str) -> torch.Tensor:
        linear = torch.tensor(EYES[eye]).double() @ rgb(colour).double() ** 2.2
        return linear.clamp(0, 1) ** (1 / 2.2)

    for a, b in itertools.combinations(common.COLOURS, 2):
        assert float((seen(a) - seen(b)).norm()) > 0.1, (a, b)


def test_colour_is_never_alone():
    looks = [common.look(k) for k in range(len(common.COLOURS))]
    for key in ("color", "marker", "ls"):
        assert len({str(each[key]) for each in looks}) == len(looks), key
    with pytest.raises(IndexError):
        common.look(len(looks))


@pytest.mark.parametrize(
    "path", [*SCRIPTS.values(), *sorted((EXAMPLES / "shared").glob("*.py"))], ids=lambda p: p.stem
)
def test_colours_are_written_once(path):
    """In common.py."""
    assert not re.findall(r'"#[0-9a-fA-F]{6}"|tab10', path.read_text())


# every one that there is
# ------------------------------------------------------------------------------------------------------------


def test_sample_shows_every_method():
    import sample

    panels = sample.FLOWS | sample.NOISY
    shown = {type(method) for methods in panels.values() for method in methods}
    public = {
        thing
        for thing in vars(solvers).values()
        if isinstance(thing, type)
        and issubclass(thing, solvers.Method)
        and thing is not solvers.Method
        and not issubclass(thing, (solvers.DriftMethod, solvers.PhaseMethod))  # of other equations
    }
    assert shown == public
    for title, methods in panels.items():
        names = [sample.name_of(method) for method in methods]
        assert len(set(names)) == len(names) <= 1 + len(common.COLOURS), title
        assert all(method.stochastic == (title in sample.NOISY) for method in methods), title


def test_gradients_shows_every_strategy():
    import gradients

    shown = {type(each) for strategies in gradients.STRATEGIES.values() for each in strategies}
    public = {
        thing
        for name, thing in vars(adjoint).items()
        if name in adjoint.__all__ and isinstance(thing, type) and issubclass(thing, adjoint.Gradient)
    }
    others = {
        adjoint.Gradient,
        adjoint.Auto,
        adjoint.TorchDiffEq,
        adjoint.TorchSDE,
    }  # which choose, or are bridges
    assert shown == public - others
    labels = [gradients.label(each) for strategies in gradients.STRATEGIES.values() for each in strategies]
    assert len(set(labels)) == len(labels)


def test_live_tensors_are_counted():
    import gradients

    with gradients.Live() as live:
        a = torch.zeros(1000, dtype=torch.float64)
        b = a + 1
        del a, b
        c = torch.zeros(500, dtype=torch.float64)
    assert live.peak == 16_000 and live.now == 4000, c.shape


def test_sliced_distance_of_shifted_points():
    """A shift by (d, 0) moves every shadow by d |cos|: 2/pi d on average over directions."""
    import sample

    x = torch.randn(300, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved = x + torch.tensor([0.5, 0.0], dtype=torch.float64)
    assert sample.sliced(moved, x) == pytest.approx(0.5 * 2 / torch.pi, rel=1e-2)


def test_what_is_written_is_read_again(tmp_path):
    plt = common.pyplot()
    figure, axis = plt.subplots()
    axis.plot([0, 1], **common.look(1))
    common.write(tmp_path, "drawn", figure, {"number": 1.5})
    plt.close(figure)
    assert json.loads((tmp_path / "drawn.json").read_text()) == {"number": 1.5}
    assert (tmp_path / "drawn.png").stat().st_size > 1000
