"""What a training run survives, and what does not grow: kills, damage, a full disk, memory.

    python benchmarks/durability.py [--kills 30] [--updates 600] [--calls 200]

writes benchmarks/results/durability.json:

- kills: SIGKILL at random moments, spread over three objectives; after the last, the resumed run against the one left
  in peace, bit for bit (weights, averages, optimiser, statistics, random numbers, log);
- damage: each file of the newest checkpoint with a flipped byte, cut short, emptied and removed: what resume did;
- disk: checkpoints on a file system (or under a limit on file sizes) too small for them: what was said and kept;
- signal: seconds from SIGTERM to the end of `train`, saved;
- memory: live tensors and resident memory at intervals of DRaFT updates with KL, `optimise` steps and `trajectory`
  calls.
"""

import argparse
import gc
import json
import multiprocessing
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pullback.adjoint import Checkpoint, trajectory
from pullback.guidance import (
    DDPO,
    DPOK,
    DRaFT,
    Over,
    Prompt,
    Prompts,
    RewardTrainer,
    TrainConfig,
    lora,
    optimise,
)
from pullback.solvers import DATA, DDIM, VP, Addressed, Denoiser, UniformT

HERE = pathlib.Path(__file__).parent
OBJECTIVES = {"DRaFT, KL": lambda: DRaFT(kl=0.1), "DDPO, KL": lambda: DDPO(kl=0.1), "DPOK": DPOK}
ITERATIONS = 40


class Net(nn.Module):
    """A small data prediction."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.enter, self.leave = nn.Linear(3, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return 0.5 * x + self.leave(torch.tanh(self.enter(torch.cat([x, t[:, None].to(x)], 1))))


def reward(x: Tensor, context: Any = None) -> Tensor:
    return -(x - 1).square().sum(1)


def trainer(
    out: pathlib.Path,
    objective: str,
    *,
    full: bool = True,
    iterations: int = ITERATIONS,
    keep: int = 3,
    scored: Callable[..., Tensor] = reward,
) -> RewardTrainer:
    model = Denoiser(Net(), VP(), DATA)
    config = TrainConfig(
        out, iterations, 1e-3, samples=8, evaluate_every=5, evaluation_samples=8, checkpoint_every=1,
        tensorboard=False, progress=False, ema=0.9, keep=keep,
    )  # fmt: skip
    plan = DDIM(1.0).plan(VP(), UniformT(4))
    model = model if full else lora(model, 2)
    return RewardTrainer(
        model, plan, OBJECTIVES[objective](), scored, Prompts([Prompt()], (2,), repeats=4), config
    )


def everything(run: RewardTrainer) -> dict[str, Any]:
    """All that a later iteration could depend on, and the log but for seconds."""
    assert run.average is not None
    rows = map(json.loads, (pathlib.Path(run.config.out) / "log.jsonl").read_text().splitlines())
    return {
        "weights": dict(run.weights),
        "average": run.average.values,
        "optimizer": run.optimizer.state_dict()["state"],
        "objective": run.objective.state(),
        "random": torch.get_rng_state(),
        "place": (run.done, run.drawn, run.reward.queries),
        "log": [{k: v for k, v in row.items() if k != "reward_seconds"} for row in rows],
    }


def same(a: Any, b: Any) -> bool:
    """Equality to the last bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a == b


def live(out: str, objective: str, report: str | None) -> None:
    """A run in a process of its own, resumed where it can be."""
    torch.set_num_threads(1)
    torch.manual_seed(5)
    run = trainer(pathlib.Path(out), objective)
    run.train(resume=True)
    if report is not None:
        torch.save(everything(run), report)


def kills(folder: pathlib.Path, objective: str, count: int, seed: int) -> dict[str, Any]:
    """SIGKILL `count` times, each after a random time; then to the end, against the run left in peace."""
    fork, draw, out = multiprocessing.get_context("fork"), random.Random(seed), folder / "killed"
    struck, reached, lost = [], 0, 0
    while len(struck) < count:
        child = fork.Process(target=live, args=(str(out), objective, None))
        child.start()
        assert child.pid is not None
        began = time.monotonic()
        while child.is_alive() and newest(out) <= reached and time.monotonic() - began < 120:
            time.sleep(0.002)  # past one more checkpoint, so that the run ends at all; then strike anywhere
        time.sleep(draw.uniform(0, 0.04))
        if not child.is_alive():  # it was done
            assert child.exitcode == 0
            shutil.rmtree(out)
            reached = 0
            continue
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        now = newest(out)
        lost += now < reached
        reached = now
        struck.append(now)
    reports = []
    for name in ("killed", "peace"):
        child = fork.Process(target=live, args=(str(folder / name), objective, str(folder / f"{name}.pt")))
        child.start()
        child.join()
        assert child.exitcode == 0
        reports.append(torch.load(folder / f"{name}.pt"))
    differ = [key for key in reports[1] if not same(reports[0][key], reports[1][key])]
    return {"kills": count, "struck after iteration": struck, "older lost": lost, "differs": differ}


def newest(out: pathlib.Path) -> int:
    return max((int(path.name[-8:]) for path in (out / "checkpoints").glob("iteration-*")), default=0)


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGES: dict[str, Callable[[pathlib.Path], Any]] = {
    "flipped byte": lambda file: file.write_bytes(flip(file.read_bytes())),
    "cut short": lambda file: file.write_bytes(file.read_bytes()[:-7]),
    "emptied": lambda file: file.write_bytes(b""),
    "removed": lambda file: file.unlink(),
}


def resumed(out: pathlib.Path) -> dict[str, Any]:
    """Where a resumed run of 4 iterations began, and whether it said that it passed something over."""
    began = [4]  # and before it the iterations done whenever the reward was asked

    def watched(x: Tensor, context: Any) -> Tensor:
        began.append(run.done)
        return reward(x)

    run = trainer(out, "DRaFT, KL", iterations=4, scored=watched)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run.train(resume=True)
    return {"resumed at": min(began), "warned": any("passed over" in str(one.message) for one in said)}


def damage(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Every kind of file of the newest checkpoint, each way; `resumed at` 3 is the older one taken, with a warning."""
    torch.manual_seed(5)
    trainer(folder / "whole", "DRaFT, KL", iterations=4).train()
    found, files = (
        [],
        sorted(path.name for path in (folder / "whole/checkpoints/iteration-00000004").iterdir()),
    )
    for name in files:
        for how, spoil in DAMAGES.items():
            out = folder / "spoilt"
            shutil.copytree(folder / "whole", out)
            spoil(out / "checkpoints/iteration-00000004" / name)
            found.append({"file": name, "damage": how} | resumed(out))
            shutil.rmtree(out)
    return found


def tiny_disk(folder: pathlib.Path) -> tuple[str, Callable[[], Any], Callable[[], Any]]:
    """(what it is, make it small, undo): a tmpfs where mounting is permitted, else a limit on the size of files."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True
    ).returncode
    if mounted == 0:
        return (
            "tmpfs of 64 KiB",
            lambda: None,
            lambda: subprocess.run(["umount", "-l", str(folder)], check=False),
        )
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    return (
        "limit of 2 KiB on file sizes",
        lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard)),
        lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard)),
    )


def disk(folder: pathlib.Path) -> dict[str, Any]:
    """Train until nothing fits any more; then make room and resume."""
    what, squeeze, undo = tiny_disk(folder / "disk")
    out = folder / "disk" / "run"
    try:
        torch.manual_seed(5)
        run = trainer(out, "DRaFT, KL", iterations=2, keep=20)  # several fit, until none does
        try:
            run.train()
            squeeze()
            for done in range(3, 20):
                run.done = done
                run.save()
            said = "nothing: all fitted"
        except OSError as error:
            said = str(error)
        if what.startswith("limit"):
            undo()
        held = [path.name for path in run.checkpoints.found()]
        for path in held:
            run.checkpoints.load(run.checkpoints.folder / path)  # raises where damaged
        return {"disk": what, "said": said.replace(str(folder), "..."), "whole afterwards": held,
                "left aside": [p.name for p in run.checkpoints.folder.glob(".writing*")]}  # fmt: skip
    finally:
        undo()


def term(folder: pathlib.Path) -> dict[str, float]:
    """Seconds from SIGTERM to the end of a process in training, its checkpoint included."""
    fork, waits = multiprocessing.get_context("fork"), []
    for k in range(3):
        child = fork.Process(target=live, args=(str(folder / f"term{k}"), "DDPO, KL", None))
        child.start()
        assert child.pid is not None
        while newest(folder / f"term{k}") < 3:
            time.sleep(0.002)
        began = time.monotonic()
        os.kill(child.pid, signal.SIGTERM)
        child.join(60)
        waits.append(time.monotonic() - began)
        assert child.exitcode == 0
    return {"seconds, longest of three": round(max(waits), 3)}


def resident() -> float:
    """MiB of this process."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def growth(work: Callable[[int], Any], turns: int) -> dict[str, list[float]]:
    """Live tensors and MiB at six moments, the first after a sixth of `turns`."""
    tensors, memory = [], []
    for turn in range(1, turns + 1):
        work(turn)
        if turn % (turns // 6) == 0:
            gc.collect()
            tensors.append(sum(isinstance(found, Tensor) for found in gc.get_objects()))
            memory.append(round(resident(), 1))
    return {"turns": turns, "live tensors": tensors, "resident MiB": memory}  # type: ignore[dict-item]


def memory(folder: pathlib.Path, updates: int, calls: int) -> dict[str, Any]:
    from pullback.guidance.train.iteration import iterate

    found = {}
    for label, full in (("DRaFT with KL, all weights", True), ("DRaFT with KL, LoRA reference", False)):
        run = trainer(folder / label.replace(" ", "-"), "DRaFT, KL", full=full, iterations=updates).run
        found[label] = growth(lambda turn, run=run: iterate(run), updates)
    body = nn.Sequential(nn.Linear(1024, 64), nn.Tanh(), nn.Linear(64, 1024))
    model = Denoiser(lambda x, t: body(x), VP(), DATA)
    plan, x = DDIM(1.0).plan(VP(), UniformT(4)), torch.randn(64, 1024)  # 0.25 MiB a state

    def descend(turn: int) -> None:
        optimise(model, plan, lambda z: z.square().sum(1), x, noise=Addressed(0), over=Over(noise=True), steps=5,
                 progress=False)  # fmt: skip

    def walk(turn: int) -> None:
        start = x.clone().requires_grad_()
        states = trajectory(model, plan, start, [1, 2, 4], noise=Addressed(0), gradient=Checkpoint())
        sum(state.square().sum() for state in states).backward()  # type: ignore[union-attr]

    found["optimise, 5 steps a turn"] = growth(descend, max(6, calls // 5))
    found["trajectory"] = growth(walk, calls)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--updates", type=int, default=600)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results" / "durability.json")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    facts: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        root = pathlib.Path(place)

        def note(name: str, value: Any) -> None:
            facts[name] = value
            print(name, json.dumps(value), flush=True)
            chosen.out.write_text(json.dumps(facts, indent=1) + "\n")

        share = chosen.kills // len(OBJECTIVES)
        for k, name in enumerate(OBJECTIVES):
            (folder := root / f"kills{k}").mkdir()
            note(f"kills, {name}", kills(folder, name, share, seed=k))
        for name, part in (("damage", damage), ("disk", disk), ("signal", term)):
            (folder := root / name).mkdir()
            note(name, part(folder))
        note("memory", memory(root, chosen.updates, chosen.calls))


if __name__ == "__main__":
    sys.exit(main())
