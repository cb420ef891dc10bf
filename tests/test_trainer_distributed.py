"""Two gloo processes train as one process with the whole batch does: weights, averages, statistics, figures and resume."""

import os
import pathlib
import socket
import subprocess
import sys
from typing import Any

import accelerate
import pytest
import torch
from pullback.guidance import Objective, RewardTrainer
from pullback.guidance.log import read
from tuning import Pathwise, ScoreFunction, trainer

HERE = pathlib.Path(__file__).parent
OBJECTIVES: dict[str, type[Objective]] = {"pathwise": Pathwise, "score function": ScoreFunction}
FIGURES = ("reward", "reward_se", "kl", "kl_se", "diversity", "loss", "gradient_norm", "samples", "reward_queries")


def made(out: pathlib.Path, name: str, **changed: Any) -> RewardTrainer:
    """One run of an objective."""
    usual = {"iterations": 3, "updates": 2, "limit": 4, "checkpoint_every": 1,
             "given": {"accelerator": accelerate.Accelerator(cpu=True)}}
    return trainer(out / name.replace(" ", "_"), OBJECTIVES[name](), **usual | changed)


def result(got: RewardTrainer) -> dict[str, Any]:
    """What must not depend on the number of processes."""
    assert got.average is not None
    rows = read(pathlib.Path(got.config.out) / "log.jsonl")
    weights, average = ({k: _full(v) for k, v in values.items()} for values in (got.weights, got.average.values))
    return {"weights": weights, "average": average,
            "statistics": got.objective.state(), "log": [{k: row[k] for k in FIGURES if k in row} for row in rows]}


def _full(value: Any) -> torch.Tensor:
    return (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().clone()


def work(folder: str) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(int(os.environ["RANK"]))  # global generators differ, as they do in practice
    out, found = pathlib.Path(folder), {}
    for name in OBJECTIVES:
        for full in (True, False):
            kind = f"{name}, {'all weights' if full else 'adapters'}"
            run = made(out / str(full), name, full=full)
            run.check()
            run.train()
            found[kind] = result(run)
        made(out / "halves", name, iterations=1).train()
        second = made(out / "halves", name)
        second.train(resume=True)
        found[f"{name}, resumed"] = result(second)
    found["refused"] = refusals(out)
    torch.save(found, out / f"{os.environ['RANK']}.pt")
    torch.distributed.destroy_process_group()


def refusals(out: pathlib.Path) -> dict[str, str]:
    """What both processes must raise together, although the cause lies on one of them."""
    rank, said = int(os.environ["RANK"]), {}

    def breaks(x: torch.Tensor, context: Any) -> torch.Tensor:
        return torch.full((len(x),), torch.nan) if rank else x.sum(1)

    attempts: dict[str, Any] = {
        "nan": lambda: trainer(out / "nan", ScoreFunction(), scored=breaks, evaluate_every=None).train(),
        "frozen": lambda: differing(out / "frozen", rank).check(),
        "uneven": lambda: trainer(out / "uneven", samples=7),
    }
    for name, attempt in attempts.items():
        try:
            attempt()
        except (ValueError, FloatingPointError) as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said


def differing(out: pathlib.Path, rank: int) -> RewardTrainer:
    """Processes whose frozen weights differ: no averaging of gradients mends that."""
    run = trainer(out, full=False)
    with torch.no_grad():
        next(v for v in run.denoiser.parameters() if not v.requires_grad).add_(float(rank))
    return run


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What both processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1",
           "MASTER_PORT": port, "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    code = "import conftest, sys, test_trainer_distributed as d; d.work(sys.argv[1])"
    both = [subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, str(folder)], text=True, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, env=env | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)]
    try:
        said = [one.communicate(timeout=240)[0] for one in both]
    finally:
        for one in both:
            one.kill()
    assert all(one.returncode == 0 for one in both), "\n".join(said)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def close(a: Any, b: Any) -> bool:
    """Equality to 1e-9, through dicts and lists."""
    if isinstance(a, torch.Tensor):
        return torch.allclose(a, b, rtol=1e-9, atol=1e-9)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(close(x, y) for x, y in zip(a, b, strict=True))
    return a == pytest.approx(b, rel=1e-9, abs=1e-9) if isinstance(a, float) else a == b


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("full", [True, False], ids=["all weights", "adapters"])
def test_two_processes_are_one_with_the_whole_batch(ranks, tmp_path, name, full):
    """The same global samples, pieces and choices: 4 a process and piece there, 8 here."""
    one = trainer(tmp_path, OBJECTIVES[name](), iterations=3, updates=2, limit=8, checkpoint_every=1, full=full)
    one.train()
    want, kind = result(one), f"{name}, {'all weights' if full else 'adapters'}"
    for got in ranks:
        assert [part for part in want if not close(want[part], got[kind][part])] == []
    assert torch.equal(*(torch.cat([v.flatten() for v in got[kind]["weights"].values()]) for got in ranks))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_processes_resume_to_the_last_bit(ranks, name):
    for got in ranks:
        whole, resumed = got[f"{name}, all weights"], got[f"{name}, resumed"]
        for part in ("weights", "average"):
            assert all(torch.equal(whole[part][key], resumed[part][key]) for key in whole[part])
        assert whole["statistics"] == resumed["statistics"] and whole["log"] == resumed["log"]


def test_what_breaks_on_one_process_is_refused_on_both(ranks):
    first, second = (got["refused"] for got in ranks)
    assert "iteration 0: not finite" in first["nan"] and "reward: nan" in second["nan"]
    for said in (first, second):
        assert "weights: got different numbers on 2 processes" in said["frozen"]
        assert "samples: got 7 per update, expected a multiple of 2" in said["uneven"]
