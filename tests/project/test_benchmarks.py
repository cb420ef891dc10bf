"""The benchmarks: truths they compare with, what they share, the arithmetic on paper, the page they write."""

import json
import math
import os
import pathlib
import subprocess
import sys
import time
import types

import pytest
import torch

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = ROOT / "benchmarks"


@pytest.fixture(autouse=True)
def at_the_scripts(monkeypatch):
    """They import one another as scripts do, from their own folder; what they changed of torch is put back."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


def script(name: str) -> types.ModuleType:
    return __import__(name)


# truths
# ----------------------------------------------------------------------------------------------------------------


def test_the_exact_flow_and_its_gradient():
    """Against fourth-order steps of the flow written here, and finite differences of all weights and of x."""
    exact = script("peers_exact")
    law, x = exact.Law(), exact.draws()[::9].requires_grad_()
    at_x, at_weights = exact.gradients(law, x, law.flow(x))
    first, last = exact.LAMBDAS
    u, y, h = torch.tensor(first, dtype=torch.float64), x.detach(), (last - first) / 400
    with torch.no_grad():
        for _ in range(400):
            k1 = exact.slope(law, u, y, False)
            k2 = exact.slope(law, u + h / 2, y + h / 2 * k1, False)
            k3 = exact.slope(law, u + h / 2, y + h / 2 * k2, False)
            k4 = exact.slope(law, u + h, y + h * k3, False)
            u, y = u + h, y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        assert torch.allclose(y, law.flow(x), atol=1e-5)
        step, found = 1e-6, []
        for weight in law.parameters():
            for k in range(len(weight)):
                ends = []
                for sign in (1, -1):
                    weight[k] += sign * step
                    ends.append(exact.loss(law.flow(x)))
                    weight[k] -= sign * step
                found.append((ends[0] - ends[1]) / (2 * step))
        assert torch.allclose(torch.stack(found), at_weights, rtol=1e-6, atol=1e-6)
        moved = [exact.loss(law.flow(x.detach() + sign * step)) for sign in (1, -1)]
        assert torch.allclose((moved[0] - moved[1]) / (2 * step), at_x.sum(), rtol=1e-6)


def test_the_slope_in_t_is_that_in_lambda():
    exact = script("peers_exact")
    law, x, t = exact.Law(), exact.draws(), torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    (rate,) = torch.autograd.grad(exact.PROCESS.lam(t), t)
    in_lambda = exact.slope(law, exact.PROCESS.lam(t.detach()), x, False)
    assert torch.allclose(exact.slope(law, t.detach(), x, True), in_lambda * rate, rtol=1e-9)


def test_the_gradient_of_the_linear_reverse_sde():
    """Against Euler-Maruyama's own product of 20,000 factors, and the mean by the same recursion."""
    sde = script("peers_sde")
    times = torch.linspace(sde.START, sde.END, 20_001, dtype=torch.float64)
    alpha, sigma, h = sde.PROCESS.alpha(times), sde.PROCESS.sigma(times), (sde.START - sde.END) / 20_000
    beta = sde.PROCESS.beta_min + (sde.PROCESS.beta_max - sde.PROCESS.beta_min) * times
    variance = alpha**2 * sde.STD**2 + sigma**2
    pull = 1 + h * beta * (0.5 - 1 / variance)
    push = h * beta * alpha / variance
    phi, mean = 1.0, 0.0
    for a, b in zip(pull[:-1].tolist(), push[:-1].tolist(), strict=True):
        phi, mean = a * phi, a * mean + b
    at_x, at_mean = sde.truth(torch.ones(3, 2, dtype=torch.float64))
    assert at_x[0, 0] == pytest.approx(phi, rel=2e-3) and at_mean[0] == pytest.approx(3 * mean, rel=2e-3)


# what they share
# ----------------------------------------------------------------------------------------------------------------


def test_peaks_quartiles_and_turns():
    measuring = script("measuring")
    peak = measuring.peak_bytes(lambda: torch.ones(2**26, dtype=torch.uint8))
    assert 0.9 * 2**26 < peak < 1.3 * 2**26
    assert measuring.spread([3.0, 1.0, 2.0, 5.0, 4.0])["median"] == 3.0
    assert measuring.spread([2.0]) == {"median": 2.0, "q1": 2.0, "q3": 2.0}
    order = []
    taken = measuring.by_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] * 4 and all(len(each) == 3 for each in taken.values())
    assert measuring.beside({"a": [2.0, 6.0], "b": [1.0, 2.0]}, "b")["a"]["ratio"]["median"] == 2.5


def test_a_script_that_fails_says_why(tmp_path):
    (tmp_path / "bad.py").write_text("raise SystemExit('no such thing')")
    with pytest.raises(RuntimeError, match="no such thing"):
        script("measuring").in_its_own_process(str(tmp_path / "bad.py"))


@pytest.mark.parametrize("power", (0.0, 0.5, 1.0, 2.0))
def test_slopes_are_those_of_powers(power):
    points = {str(n): {"seconds": 3 * n**power} for n in (1, 10, 100, 1000)}
    assert script("growth").slope(points, "steps", "seconds") == pytest.approx(power, abs=1e-12)


def test_what_is_out_of_time_is_stopped_with_what_it_began(tmp_path, monkeypatch):
    bench = script("bench")
    (tmp_path / "sleeper.py").write_text(
        "import subprocess, sys, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "pathlib.Path(__file__).with_name('pid').write_text(str(child.pid))\nchild.wait()\n"
    )
    (tmp_path / "bad.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr(bench, "HERE", tmp_path)
    assert bench.run("bad", 30)["end"] == 3
    assert bench.run("sleeper", 1.5)["end"] == "stopped: out of time"
    state = pathlib.Path("/proc", (tmp_path / "pid").read_text(), "stat")
    ends = time.monotonic() + 10  # the kernel takes its time with what was killed
    while (alive := state.exists() and state.read_text().split()[2] != "Z") and time.monotonic() < ends:
        time.sleep(0.05)
    assert not alive


def test_every_script_is_run_listed_or_shared():
    bench = script("bench")
    listed = [*bench.BENCH, *bench.OTHERS, *bench.ON_A_GPU, *bench.SHARED]
    assert sorted(listed) == sorted(path.stem for path in SCRIPTS.glob("*.py"))


# on paper
# ----------------------------------------------------------------------------------------------------------------


def test_sizes_are_those_of_the_models():
    flux, video, _ = script("on_paper").MODELS
    assert flux.weights == pytest.approx(11.9e9, rel=0.01) and video.weights == pytest.approx(14e9, rel=0.01)
    assert flux.tokens == 64 * 64 + 512 and flux.numbers == 16 * 128 * 128
    assert video.latent == (16, 21, 60, 104) and video.tokens == 21 * 30 * 52


def test_seconds_are_the_calls_that_are_made():
    """N F to sample; N (F + F) for LoRA and one F more where blocks are made again; K of them for DRaFT-K."""
    paper = script("on_paper")
    for model in paper.MODELS:
        call = model.calls * model.flops / (0.4 * 989e12)
        for last, full, saved, factor in (
            (None, False, False, 3 * 20), (None, False, True, 4 * 20), (None, True, False, 4 * 20),
            (1, False, False, 20 + 2), (2, True, True, 20 + 2 * 4),
        ):  # fmt: skip
            found = paper.seconds(model, "8", 20, saved, last, full)
            assert found["computing"] == pytest.approx(factor * call) and found["total"] == pytest.approx(
                factor * call
            )
    slow = paper.seconds(paper.MODELS[0], "64", 20, False, None, False)
    assert slow["gather"] == pytest.approx(2 * paper.MODELS[0].weights * 63 / 64 / 50e9)
    assert slow["total"] == pytest.approx(60 * slow["gather"]) and slow["gather"] > slow["call"]


def test_bytes_add_up():
    paper = script("on_paper")
    for row in paper.rows():
        items = row["bytes"]
        kept = items["weights"] + items["gathered"] + items["lora"] + items["activations"]
        assert row["ways"]["Checkpoint"]["bytes"] == kept + items["states_checkpoint"]
        assert row["ways"]["Reversible"]["bytes"] == kept + items["states_reversible"]
        assert math.isclose(items["states_checkpoint"] / (row["steps"] + 1) * 4, items["states_reversible"])
    assert json.loads((SCRIPTS / "results" / "on_paper.json").read_text())["rows"] == json.loads(
        json.dumps(paper.rows())
    )


# the page
# ----------------------------------------------------------------------------------------------------------------


def test_the_page_is_what_the_results_say():
    assert script("page").PAGE.read_text() == script("page").written()


def test_a_peer_that_is_ahead_is_named():
    """Halve a peer's error, time or loss in the results, and its line says so."""
    page, tables = script("page"), script("page_tables")
    peers, own = page.read("peers"), page.read("overhead")["over_diffusers"]
    for row in peers["accuracy"]["rows"]:
        row["x_error"] *= {"torchdiffeq": 1e-6, "diffrax": 1e6}.get(row["side"], 1.0)
    for each in peers["inverse"]["errors"].values():
        for by in each.values():
            by["deepinv"]["mean"] = by["pullback"]["mean"] / 2
    first, second, _, _, last = tables.ahead(peers, own).splitlines()
    assert "torchdiffeq is ahead with" in first and "N = 12" in first and "N = 96" in first
    assert "diffrax is not ahead" in second and "ahead mixture, 25 calls" in last


# the scripts run
# ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("part", ("accuracy", "sde", "inverse"))
def test_the_parts_run_with_the_peers_that_are_here(part, tmp_path):
    command = [sys.executable, "-W", "ignore", str(SCRIPTS / "peers.py"), "--quick", "--part", part]
    out = subprocess.run(
        [*command, "--out", str(tmp_path / "x")], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert out.returncode == 0, out.stderr[-2000:]
    assert f"{part}: " in out.stdout and not (tmp_path / "x").exists()
