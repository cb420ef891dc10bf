"""A run that was stopped, killed or interrupted and then resumed is, to the last bit, the run that never was."""

import json
import multiprocessing
import os
import pathlib
import random
import shutil
import signal
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from tuning import Pathwise, ScoreFunction, logged, reward, trainer

from pullback.guidance import Checkpoints, End, Objective, RewardTrainer
from pullback.guidance.train.processes import Processes


def make(out: pathlib.Path, objective: type[Objective] = ScoreFunction, **changed: Any) -> RewardTrainer:
    """A float32 run with averages, clipping, evaluations of a held-out reward, and dropout."""
    usual: dict[str, Any] = dict(
        dtype=torch.float32,
        full=True,
        clip=0.1,
        patience=50,
        iterations=6,
        weight_decay=0.1,
        given={"heldout": {"side": lambda x, context: x[:, 0]}},
    )
    made = trainer(out, objective(), **usual | changed)
    if changed.get("full", True):
        for module in list(made.denoiser.networks()):
            made.denoiser.network = Dropping(module)  # type: ignore[attr-defined]
    return made


class Dropping(nn.Module):
    """Dropout behind a network."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        return nn.functional.dropout(self.net(x, t, cond), 0.05, self.training)


def everything(made: RewardTrainer) -> dict[str, Any]:
    """All that a later iteration could depend on, and the log but for seconds."""
    assert made.average is not None
    clock = ("reward_seconds",)
    return {
        "weights": dict(made.weights),
        "average": made.average.values,
        "optimizer": made.optimizer.state_dict()["state"],
        "objective": made.objective.state(),
        "decline": made.decline.state(),
        "random": torch.get_rng_state(),
        "place": (made.done, made.drawn, made.reward.queries),
        "log": [{k: v for k, v in row.items() if k not in clock} for row in logged(made.config.out)],
    }


def same(a: Any, b: Any) -> bool:
    """Equality to the last bit, through dicts and lists."""
    if isinstance(a, Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


def differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """The names under which two runs differ."""
    return [name for name in a if not same(a[name], b[name])]


def uninterrupted(out: pathlib.Path, **changed: Any) -> dict[str, Any]:
    torch.manual_seed(5)
    made = make(out, **changed)
    assert made.train() is End.ITERATIONS
    return everything(made)


@pytest.mark.parametrize("objective", [Pathwise, ScoreFunction])
@pytest.mark.parametrize("full", [True, False])
def test_two_halves_are_the_whole(tmp_path, objective, full):
    want = uninterrupted(tmp_path / "whole", objective=objective, full=full)
    torch.manual_seed(5)
    make(tmp_path / "halves", objective, full=full, iterations=3).train()
    torch.manual_seed(99)  # a new process has other random numbers
    second = make(tmp_path / "halves", objective, full=full)
    assert second.train(resume=True) is End.ITERATIONS and second.done == 6
    got = everything(second)
    assert differing(want, got) == []
    assert [row["iteration"] for row in got["log"]] == [0, 1, 2, 2, 3, 4, 4, 5, 6, 6]


def test_what_a_dead_run_logged_after_its_checkpoint_is_not_there_twice(tmp_path):
    want = uninterrupted(tmp_path / "whole")
    torch.manual_seed(5)

    def dies(x: Tensor, context: Any) -> Tensor:
        dies.calls += 1  # type: ignore[attr-defined]
        # in iteration 4, after the checkpoint of 2 and the log of 3
        if dies.calls == 7:  # type: ignore[attr-defined]
            raise RuntimeError("out of memory")
        return reward(x)

    dies.calls = 0  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="out of memory"):
        make(tmp_path / "died", scored=dies).train()
    log = tmp_path / "died" / "log.jsonl"
    assert logged(log.parent)[-1]["iteration"] > 2
    log.write_text(log.read_text() + '{"iteration": 4, "ki')  # cut short
    again = make(tmp_path / "died")
    again.train(resume=True)
    assert differing(want, everything(again)) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_finishes_the_iteration_and_saves(tmp_path, number):
    want = uninterrupted(tmp_path / "whole")
    torch.manual_seed(5)

    def interrupts(x: Tensor, context: Any) -> Tensor:
        if made.done == 3:  # no evaluation there: in the middle of an iteration
            signal.raise_signal(number)
        return reward(x)

    before = signal.getsignal(number)
    made = make(tmp_path / "cut", scored=interrupts, checkpoint_every=50)
    assert made.train() is End.INTERRUPT and made.done == 4
    assert signal.getsignal(number) is before
    again = make(tmp_path / "cut", checkpoint_every=50)
    assert again.train(resume=True) is End.ITERATIONS
    assert differing(want, everything(again)) == []


class Interrupts:
    """The usual reward, which at its `at`-th call asks the run to end, as a cluster does."""

    def __init__(self, at: int) -> None:
        self.at, self.calls = at, 0

    def __call__(self, x: Tensor, context: Any) -> Tensor:
        self.calls += 1
        if self.calls == self.at:
            signal.raise_signal(signal.SIGTERM)
        return reward(x)


@pytest.mark.parametrize("objective", [Pathwise, ScoreFunction])
@pytest.mark.parametrize(
    "at, done, calls",
    [
        (2, 0, 2),  # in the evaluation at 0: none of its other pieces
        (5, 0, 5),  # in the first iteration
        (4 + 3 * 4 + 4 + 2, 3, 4 + 3 * 4 + 4 + 2),  # in the fourth: its other pieces are given up
        (4 + 2 * 4 + 3, 2, 4 + 2 * 4 + 3),  # in the evaluation at 2
        (
            4 + 2 * 4,
            2,
            4 + 2 * 4,
        ),  # in the last piece of iteration 2: it is finished, its evaluation left out
    ],
)
@pytest.mark.slow
def test_an_interrupt_is_heard_between_two_pieces(tmp_path, capfd, objective, at, done, calls):
    """4 pieces of 2 samples, in iterations and evaluations alike."""
    usual: dict[str, Any] = dict(objective=objective, limit=2, checkpoint_every=50)
    want = uninterrupted(tmp_path / "whole", **usual)
    torch.manual_seed(5)
    cut = make(tmp_path / "cut", scored=(scored := Interrupts(at)), **usual)
    if objective is ScoreFunction and at == 4 + 2 * 4:  # its losses are still to come, in 4 pieces too
        done = 1
    assert cut.train() is End.INTERRUPT and (cut.done, scored.calls) == (done, calls)
    assert "a second one ends at once" in capfd.readouterr().err
    again = make(tmp_path / "cut", **usual)
    assert again.train(resume=True) is End.ITERATIONS
    assert differing(want, everything(again)) == []


def test_an_interrupt_after_the_first_step_of_an_iteration_lets_it_finish(tmp_path):
    """The weights have moved: 2 updates of 4 pieces each, interrupted in the second update of the third iteration."""
    usual: dict[str, Any] = dict(objective=Pathwise, limit=2, updates=2, evaluate_every=None, patience=None)
    want = uninterrupted(tmp_path / "whole", **usual)
    torch.manual_seed(5)
    cut = make(tmp_path / "cut", scored=(scored := Interrupts(2 * 8 + 6)), **usual)
    assert cut.train() is End.INTERRUPT and (cut.done, scored.calls) == (3, 3 * 8)
    again = make(tmp_path / "cut", **usual)
    assert again.train(resume=True) is End.ITERATIONS
    assert differing(want, everything(again)) == []


def test_a_second_interrupt_ends_at_once(tmp_path):
    def twice(x: Tensor, context: Any) -> Tensor:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return reward(x)

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, scored=twice).train()


def live(out: str, report: str | None) -> None:
    """A run in a process of its own, resumed where it can be."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(5)
    made = make(pathlib.Path(out), iterations=25, checkpoint_every=1, evaluate_every=5)
    made.train(resume=True)
    if report is not None:
        torch.save(everything(made), report)


@pytest.mark.parametrize("seed", [0, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 2))])
def test_killed_at_random_moments_and_resumed(tmp_path, seed):
    """SIGKILL three times. Whole checkpoints only grow newer, and the end is that of the run left in peace."""
    fork, draw = multiprocessing.get_context("fork"), random.Random(seed)
    out, found, kills = tmp_path / "killed", [], 0
    while kills < 3:
        child = fork.Process(target=live, args=(str(out), None))
        child.start()
        assert child.pid is not None
        reached = len(found) and int(found[-1].name[-8:])
        until = time.monotonic() + 120
        while child.is_alive() and _newest(out) < reached + 2 and time.monotonic() < until:
            time.sleep(0.005)  # let it pass at least two checkpoints, then strike anywhere
        time.sleep(draw.uniform(0, 0.1))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        kills += 1
        now = Checkpoints(out / "checkpoints", 3, Processes()).found()  # type: ignore[arg-type]
        assert now and int(now[-1].name[-8:]) >= reached and len(now) <= 4
        found = now
    for name, folder in (("killed", out), ("peace", tmp_path / "peace")):
        child = fork.Process(target=live, args=(str(folder), str(tmp_path / f"{name}.pt")))
        child.start()
        child.join()
        assert child.exitcode == 0
    got, want = (torch.load(tmp_path / f"{name}.pt") for name in ("killed", "peace"))
    assert differing(want, got) == [] and want["place"][0] == 25


def _newest(out: pathlib.Path) -> int:
    return max((int(path.name[-8:]) for path in (out / "checkpoints").glob("iteration-*")), default=0)


def test_only_whole_checkpoints_count_and_the_last_few_stay(tmp_path):
    made = make(tmp_path, checkpoint_every=1, keep=2)
    made.train()
    held = made.checkpoints
    assert [path.name for path in held.found()] == ["iteration-00000005", "iteration-00000006"]
    five, six = held.found()
    (six / "state.pt").write_bytes((six / "state.pt").read_bytes()[:-1])
    assert held.latest() == five
    shutil.copytree(five, held.folder / ".writing-00000007")
    (held.folder / "iteration-00000008").mkdir()
    assert held.latest() == five
    (five / "whole.json").write_text(json.dumps({"weights.safetensors": 1}))
    assert held.latest() is None


def test_a_failed_write_leaves_the_older_one(tmp_path, monkeypatch):
    made = make(tmp_path, iterations=2)
    made.train()
    monkeypatch.setattr(os, "rename", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    made.done = 3
    with pytest.raises(OSError, match="disk full"):
        made.save()
    assert made.checkpoints.latest() == tmp_path / "checkpoints" / "iteration-00000002"


def test_resume_is_asked_for_and_fits(tmp_path):
    make(tmp_path, iterations=2).train()
    with pytest.raises(FileExistsError, match="resume=True"):
        make(tmp_path).train()
    with pytest.raises(ValueError, match="differ in"):
        make(tmp_path, full=False).train(resume=True)
    with pytest.warns(UserWarning, match="changed since: lr"):
        changed = make(tmp_path, lr=1e-3)
        changed.train(resume=True)
    assert changed.optimizer.param_groups[0]["lr"] == 1e-3
