"""Two gloo processes train as one process with the whole batch does: weights, averages, statistics, figures
and resume.
"""

import inspect
import json
import os
import pathlib
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import accelerate
import pytest
import torch
from problems import PROCESS
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from tuning import Net, Pathwise, ScoreFunction, config, logged, plan, prompts, reward, trainer
from two_ranks import two_ranks

from pullback import guidance
from pullback.guidance import (
    DDPO,
    DPOK,
    Critic,
    DRaFT,
    FlowGRPO,
    Objective,
    PerPrompt,
    RewardTrainer,
    StateValue,
)
from pullback.guidance.train import checkpoints
from pullback.solvers import DATA, Denoiser

HERE = pathlib.Path(__file__).parent
TESTS = HERE.parents[1]
FIGURES = (
    "reward",
    "reward_se",
    "kl",
    "kl_se",
    "diversity",
    "loss",
    "gradient_norm",
    "samples",
    "reward_queries",
)
QUICK: dict[str, Callable[[], Objective]] = {
    "Pathwise": Pathwise,
    "ScoreFunction": ScoreFunction,
    "DRaFT": DRaFT,
}
VARIANTS: dict[str, Callable[[], Objective]] = {
    "DRaFT, last step, KL": lambda: DRaFT(last=1, kl=0.1),
    "DDPO, per prompt, KL, minibatches": lambda: DDPO(PerPrompt(minimum=2), kl=0.1, passes=2, minibatches=2),
    "DPOK with a critic": lambda: DPOK(critic=Critic(StateValue(2), lr=1e-2)),
    "FlowGRPO, KL": lambda: FlowGRPO(kl=0.1),
}


SHARDED = "Pathwise on a sharded network"


def whole(value: Any) -> Tensor:
    """A sharded tensor gathered."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def every() -> dict[str, Callable[[], Objective]]:
    """All public objectives: a new one is enrolled by its name alone."""
    classes = list(vars(guidance).values())
    concrete = [
        c for c in classes if isinstance(c, type) and issubclass(c, Objective) and not inspect.isabstract(c)
    ]
    return {c.__name__: c for c in concrete} | VARIANTS


KINDS = {**QUICK, **every()}


def made(out: pathlib.Path, name: str, full: bool = True, **changed: Any) -> RewardTrainer:
    """One run of an objective, float64."""
    folder = out / f"{'full' if full else 'adapters'} {name}"
    if name == SHARDED:
        net = sharded(Net()) if torch.distributed.is_initialized() else Net()
        given = {"reference": Denoiser(Net(), PROCESS, DATA)} | changed.pop("given", {})
        settings = config(folder, **dict(iterations=3, limit=4, checkpoint_every=1, clip=0.1) | changed)
        return RewardTrainer(
            Denoiser(net, PROCESS, DATA), plan(), Pathwise(), reward, prompts(), settings, **given
        )
    usual: dict[str, Any] = dict(iterations=3, updates=2, limit=4, checkpoint_every=1, lr=1e-3)
    return trainer(folder, KINDS[name](), full=full, **usual | changed)


def sharded(net: nn.Module) -> nn.Module:
    """Parameters spread over the processes, as accelerate's FSDP 2 does it."""
    mesh = init_device_mesh("cpu", (2,))
    for module in net.modules():
        if isinstance(module, nn.Linear):
            fully_shard(module, mesh=mesh)
    fully_shard(net, mesh=mesh)
    return net


def runs(slow: bool) -> list[tuple[str, bool]]:
    """(objective, all weights or adapters) of each run."""
    return (
        [*((name, True) for name in every()), ("Pathwise", False), (SHARDED, True)]
        if slow
        else [(name, True) for name in QUICK]
    )


def result(got: RewardTrainer) -> dict[str, Any]:
    """What must not depend on the number of processes."""
    assert got.average is not None
    copies = (
        {k: whole(v).detach().clone() for k, v in values.items()}
        for values in (got.weights, got.average.values)
    )
    rows = [{k: row[k] for k in FIGURES if k in row} for row in logged(got.config.out)]
    return {
        "statistics": got.objective.state(),
        "log": rows,
        **dict(zip(("weights", "average"), copies, strict=True)),
    }


def work(folder: str, slow: bool) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(int(os.environ["RANK"]))  # global generators differ, as they do in practice
    out, found = pathlib.Path(folder), {}
    here = {"given": {"accelerator": accelerate.Accelerator(cpu=True)}}
    for name, full in runs(slow):
        run = made(out, name, full, **here)
        run.check()
        run.train()
        made(out / "halves", name, full, iterations=1, **here).train()
        second = made(out / "halves", name, full, **here)
        second.train(resume=True)
        found[name, full] = result(run), result(second)
    torch.save({"found": found, "refused": {} if slow else refusals(out)}, out / f"{os.environ['RANK']}.pt")
    torch.distributed.destroy_process_group()


def refusals(out: pathlib.Path) -> dict[str, str]:
    """What both processes must raise together, although the cause lies on one of them."""
    rank, said = int(os.environ["RANK"]), {}

    def breaks(x: Tensor, context: Any) -> Tensor:
        return torch.full((len(x),), torch.nan) if rank else x.sum(1)

    def wrong(x: Tensor, context: Any) -> Tensor:
        return reward(x)[:, None] if rank else reward(x)

    attempts: dict[str, Callable[[], Any]] = {
        "shape": lambda: trainer(out / "shape", ScoreFunction(), scored=wrong, evaluate_every=None).train(),
        "shape, direct": lambda: trainer(out / "shape2", scored=wrong, evaluate_every=None).train(),
        "shape of judge": lambda: trainer(out / "shape3", given={"heldout": {"judge": wrong}}).train(),
        "nan": lambda: trainer(out / "nan", ScoreFunction(), scored=breaks, evaluate_every=None).train(),
        "judge": lambda: trainer(
            out / "judge", given={"heldout": {"judge": breaks}}, limit=2, evaluate_every=2
        ).train(),
        "interrupt": lambda: interrupted(out / "interrupt", rank),
        "damage": lambda: damaged(out / "damage", rank),
        "full disk": lambda: unwritable(out / "full", rank),
        "frozen": lambda: differing(out / "frozen", rank).check(),
        "uneven": lambda: trainer(out / "uneven", samples=7),
    }
    for name, attempt in attempts.items():
        try:
            said[name] = str(attempt())
        except (ValueError, FloatingPointError, OSError) as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said


def interrupted(out: pathlib.Path, rank: int) -> str:
    """A signal to one process, in the rollout of the second of two pieces of iteration 1, ends both alike."""

    def signalled(x: Tensor, context: Any) -> Tensor:
        if rank and run.done == 1:
            signal.raise_signal(signal.SIGTERM)
        return reward(x)

    run = trainer(out, ScoreFunction(), scored=signalled, limit=2, evaluate_every=None, iterations=3)
    return f"{run.train()} at {run.done}, saved {run.checkpoints.found()[-1].name}"


def damaged(out: pathlib.Path, rank: int) -> str:
    """Only the second process reads the file that is damaged, without a checksum that the first could look at."""
    trainer(out, evaluate_every=None, checkpoint_every=1, iterations=2).train()
    newest = out / "checkpoints" / "iteration-00000002"
    if rank:
        file = newest / "process-1.pt"
        file.write_bytes(bytes(file.stat().st_size))
        sizes = {file.name: file.stat().st_size for file in newest.iterdir() if file.name != "whole.json"}
        (newest / "whole.json").write_text(json.dumps(sizes))
    torch.distributed.barrier()
    again = trainer(out, evaluate_every=None, checkpoint_every=1, iterations=2)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        again.train(resume=True)
    return "; ".join(str(one.message) for one in found if "passed over" in str(one.message))


def unwritable(out: pathlib.Path, rank: int) -> None:
    """The second process cannot write its own part."""
    run = trainer(out, evaluate_every=None, iterations=1)
    real = checkpoints._write
    if rank:
        checkpoints._write = lambda path, how: real(out / "nowhere" / path.name, how)
    try:
        run.train()
    finally:
        checkpoints._write = real


def differing(out: pathlib.Path, rank: int) -> RewardTrainer:
    """Processes whose frozen weights differ: no averaging of gradients mends that."""
    net = Net()
    net.enter.requires_grad_(False).weight.add_(float(rank))
    return RewardTrainer(Denoiser(net, PROCESS, DATA), plan(), Pathwise(), reward, prompts(), config(out))


def launched(folder: pathlib.Path, slow: bool) -> list[dict[str, Any]]:
    """What both processes found."""
    code = f"import conftest, sys, test_trainer_distributed as d; d.work(sys.argv[3], {slow})"
    two_ranks(code, folder, at=[HERE], seconds=400)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    return launched(tmp_path_factory.mktemp("quick"), False)


@pytest.fixture(scope="module")
def thorough(tmp_path_factory):
    return launched(tmp_path_factory.mktemp("thorough"), True)


def close(a: Any, b: Any) -> bool:
    """Equality to 1e-9, through dicts and lists."""
    if isinstance(a, Tensor):
        return torch.allclose(a, b, rtol=1e-9, atol=1e-9)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(close(x, y) for x, y in zip(a, b, strict=True))
    return a == pytest.approx(b, rel=1e-9, abs=1e-9) if isinstance(a, float) else a == b


def compare(ranks: list[dict[str, Any]], folder: pathlib.Path, name: str, full: bool) -> None:
    """Against one process that takes 8 samples at a time where each of the two takes 4; and against
    themselves, resumed.
    """
    one = made(folder, name, full, limit=8)
    one.train()
    want = result(one)
    assert not torch.equal(
        torch.cat([v.flatten() for v in want["weights"].values()]),
        torch.cat([v.flatten() for v in made(folder / "start", name, full).weights.values()]),
    )
    for rank in ranks:
        got, resumed = rank["found"][name, full]
        assert [part for part in want if not close(want[part], got[part])] == []
        for part in ("weights", "average"):
            assert all(torch.equal(got[part][key], resumed[part][key]) for key in got[part])
        assert got["log"] == resumed["log"]
    first, second = (rank["found"][name, full][0]["weights"] for rank in ranks)
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
@pytest.mark.parametrize("name, full", runs(False))
def test_two_processes_are_one_with_the_whole_batch(quick, tmp_path, name, full):
    compare(quick, tmp_path, name, full)


@pytest.mark.slow
@pytest.mark.parametrize("name, full", runs(True))
def test_two_processes_are_one_for_every_objective_and_for_adapters(thorough, tmp_path, name, full):
    compare(thorough, tmp_path, name, full)


def test_what_breaks_on_one_process_is_refused_on_both(quick):
    first, second = (rank["refused"] for rank in quick)
    assert "iteration 0: not finite" in first["nan"] and "reward: nan" in second["nan"]
    for said in (first, second):  # both name the reward and the sample, though one of them has not seen it
        assert "reward: nan for sample 0 of 4" in said["nan"]
        assert (
            "evaluation: not finite: judge: nan for sample 0 of 2 (evaluation samples 4 to 5)"
            in said["judge"]
        )
        for name in ("shape", "shape, direct"):
            assert said[name].startswith("ValueError: reward: got (4, 1), expected a tensor (4,)"), said[name]
        assert said["shape of judge"].startswith("ValueError: evaluation: judge: got (4, 1), expected")
        assert said["interrupt"] == "End.INTERRUPT at 1, saved iteration-00000001"
        assert "iteration-00000002: process-1.pt: cannot be read" in said["damage"]
        assert "OSError: checkpoint: could not be written: process-1.pt: " in said["full disk"]
        assert "weights: got different numbers on 2 processes" in said["frozen"]
        assert "samples: got 7 per update, expected a multiple of 2" in said["uneven"]


@pytest.mark.slow
def test_a_launcher_is_seen_on_cpus(tmp_path):
    """Accelerate passes over it there unless told: two processes would each train alone and write to one folder."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os\nfrom pullback.guidance.train.processes import processes\nworld = processes()\n"
        "os.write(1, f'{world.rank} of {world.size}\\n'.encode())\n"  # one write: print makes two, which may cross
    )
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)],
        capture_output=True,
        text=True,
        timeout=180,
        cwd=TESTS.parent,
    )
    assert sorted(line for line in done.stdout.splitlines() if " of " in line) == ["0 of 2", "1 of 2"], (
        done.stderr[-2000:]
    )
