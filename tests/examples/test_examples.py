"""Every example runs from its command line and ends in a picture and a number."""

import json
import pathlib
import runpy
import sys

import pytest
import torch

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
SMALL = {
    "face_morph": ["--optimiser-steps", "2"],
    "sample": [],
    "gradients": ["--sampler-steps", "4"],
    "directions": ["--count", "1", "--sampler-steps", "3", "--rounds", "1", "--probes", "2"],
    "digit_samples": ["--count", "50"],
    "digit_guidance": ["--optimiser-steps", "2", "--count", "1", "--sampler-steps", "4"],
    "edit_digits": ["--updates", "1", "--count", "4", "--taught", "4"],
    "robustness": ["--count", "4", "--optimiser-steps", "2", "--sampler-steps", "8"],
    "finetune": ["--updates", "2", "--batch", "8", "--sampler-steps", "4", "--count", "16"],
    "reflow": ["--pairs", "20", "--updates", "2", "--count", "20"],
    "tilted_mixture": ["--updates", "3", "--batch", "32", "--sampler-steps", "6", "--count", "500"],
    "lookahead": ["--count", "2", "--sampler-steps", "20", "--steered", "2"],
    "diffusers_finetune": ["--tiny", "--updates", "2", "--sampler-steps", "2", "--count", "8"],
    "diffusers_edit": ["--tiny", "--sampler-steps", "4"],
    "diffusers_optimise": ["--tiny", "--optimiser-steps", "5", "--sampler-steps", "2"],
    "learned_solver": ["--count", "12", "--updates", "1", "--shown", "4"],
    "learned_guidance": "--updates 1 --sampler-steps 3 --measurements 2 --copies 4 --count 2 --constants 2".split(),
    "restore_digits": ["--count", "2", "--sampler-steps", "3"],
    "restore_faces": ["--count", "1", "--seeds", "1", "--sampler-steps", "3", "--copies", "1"],
}
SHARED = {
    "train",
    "train_mnist",
    "common",
    "procedural",
    "train_procedural",
}  # imported by the examples; train writes the weights


def test_every_example_is_run():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SMALL) | SHARED


LONG = {  # over two seconds
    "digit_samples", "edit_digits", "gradients", "learned_guidance", "learned_solver", "lookahead", "reflow",
    "restore_faces", "robustness", "sample",
}  # fmt: skip
RUNS = [pytest.param(name, (), marks=pytest.mark.slow if name in LONG else ()) for name in SMALL]
RUNS += [
    pytest.param("face_morph", ("--gradient", g), marks=() if g == "reversible" else pytest.mark.slow)
    for g in ("reversible", "continuous", "adjointdeis", "adjointdeis-sde")
]
TABLE = ("--pairs", "2", "--optimiser-steps", "1", "--gradient", "all")
RUNS += [pytest.param("face_morph", TABLE, marks=pytest.mark.slow)]


@pytest.mark.parametrize(
    "name, more", RUNS, ids=lambda part: "-".join(part) if isinstance(part, tuple) else part
)
def test_example(name, more, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--out", str(tmp_path), "--device", "cpu", *SMALL[name], *more])
    monkeypatch.syspath_prepend(str(EXAMPLES))
    torch.set_default_dtype(
        torch.float32
    )  # examples run as a user runs them; the suite's fixture restores float64
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    written = f"{name}_table" if more == TABLE else name
    assert (tmp_path / f"{written}.png").stat().st_size > 10_000
    assert json.loads((tmp_path / f"{written}.json").read_text())
    assert f"{written}.png" in capsys.readouterr().out


def test_every_objective_of_finetune_fits_its_sampler():
    import finetune

    from pullback.guidance import Policy
    from pullback.solvers import UniformT
    from pullback.zoo import denoiser

    for name, how in finetune.settings(1.0).items():
        base, tuned = denoiser(how.network), denoiser(how.network)
        tuned.network.requires_grad_(True)  # type: ignore[attr-defined]
        how.objective.check(
            Policy(tuned, how.method.plan(base.process, UniformT(4, start=1.0, end=0.02)), base)
        )
        assert how.samples % how.repeats == 0, name
