"""Checkpoints that are damaged, that do not fit on the disk, or that belong to another run."""

import json
import multiprocessing
import pathlib
import resource
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from tuning import Net, Pathwise, ScoreFunction, prompts, reward, trainer

from pullback.guidance import (
    DDPO,
    DPOK,
    Brightness,
    Critic,
    DRaFT,
    End,
    FlowGRPO,
    LinearReward,
    OverBatch,
    PerPrompt,
    QuadraticReward,
    RewardTrainer,
    Scale,
    StateValue,
)
from pullback.guidance.train.settings import changes

USUAL: dict[str, Any] = dict(evaluate_every=None, checkpoint_every=1, keep=3)


def made(out: pathlib.Path, iterations: int = 3, **changed: Any) -> RewardTrainer:
    return trainer(
        out, changed.pop("objective", None) or ScoreFunction(), iterations=iterations, **USUAL | changed
    )


def weights(run: RewardTrainer) -> Tensor:
    return torch.cat([value.detach().flatten() for value in run.weights.values()])


# damage


def truncated(file: pathlib.Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def flipped(file: pathlib.Path) -> None:
    found = bytearray(file.read_bytes())
    found[len(found) // 2] ^= 0xFF
    file.write_bytes(found)


def zeroed(file: pathlib.Path) -> None:
    """As a disk leaves it that lost its blocks; a safetensors header stays readable."""
    found = file.read_bytes()
    head = len(found) // 4 if file.suffix != ".safetensors" else 8 + int.from_bytes(found[:8], "little")
    file.write_bytes(found[:head] + bytes(len(found) - head))


def gone(file: pathlib.Path) -> None:
    file.unlink()


@pytest.mark.parametrize("damage", [truncated, flipped, zeroed, gone])
@pytest.mark.parametrize(
    "name", ["weights.safetensors", "average.safetensors", "state.pt", "process-0.pt", "whole.json"]
)
def test_damage_is_named_and_the_next_older_checkpoint_taken(tmp_path, damage, name):
    whole = made(tmp_path / "whole", 5)
    whole.train()
    made(tmp_path / "hurt").train()
    damage(tmp_path / "hurt" / "checkpoints" / "iteration-00000003" / name)
    again = made(tmp_path / "hurt", 5)
    with pytest.warns(UserWarning, match=rf"iteration-00000003: {name}: .*; .*next older") as said:
        assert again.train(resume=True) is End.ITERATIONS
    assert len(said) == 1 and torch.equal(weights(again), weights(whole))
    with warnings.catch_warnings():  # what was damaged has been written anew
        warnings.simplefilter("error")
        made(tmp_path / "hurt", 6).train(resume=True)


def test_where_all_are_damaged_nothing_starts_from_0(tmp_path):
    made(tmp_path).train()
    for folder in (tmp_path / "checkpoints").iterdir():
        zeroed(folder / "weights.safetensors")
    with (
        pytest.warns(UserWarning),
        pytest.raises(RuntimeError, match=r"3 checkpoints.*damaged.*another folder"),
    ):
        made(tmp_path).train(resume=True)
    with pytest.raises(FileExistsError, match="resume=True"):
        made(tmp_path).train()
    with pytest.raises(ValueError, match="weights.safetensors"):
        made(tmp_path).restore(tmp_path / "checkpoints" / "iteration-00000002")
    for folder in (tmp_path / "checkpoints").iterdir():
        gone(folder / "whole.json")
    with pytest.warns(UserWarning), pytest.raises(RuntimeError, match="damaged"):
        made(tmp_path).train(resume=True)


def test_checkpoints_without_checksums_still_load_with_a_warning(tmp_path):
    made(tmp_path).train()
    for folder in (tmp_path / "checkpoints").iterdir():
        manifest = json.loads((folder / "whole.json").read_text())
        (folder / "whole.json").write_text(
            json.dumps({name: about["bytes"] for name, about in manifest.items()})
        )
        state = torch.load(folder / "state.pt", weights_only=True)
        config = {k: v for k, v in state.pop("settings").items() if hasattr(made(tmp_path).config, k)}
        torch.save({**state, "config": config}, folder / "state.pt")
        size = (folder / "state.pt").stat().st_size
        (folder / "whole.json").write_text(
            json.dumps(json.loads((folder / "whole.json").read_text()) | {"state.pt": size})
        )
    again = made(tmp_path, 5)
    with pytest.warns(UserWarning, match="without checksums") as said:
        again.train(resume=True)
    assert len(said) == 1 and again.done == 5
    zeroed(tmp_path / "checkpoints" / "iteration-00000003" / "state.pt")  # unreadable without any sum


def test_an_old_state_that_cannot_be_read_is_damage_too(tmp_path):
    made(tmp_path).train()
    newest = tmp_path / "checkpoints" / "iteration-00000003"
    flipped(newest / "state.pt")
    (newest / "state.pt").write_bytes(b"\x80\xff\xfe" * 2000)
    sizes = {file.name: file.stat().st_size for file in newest.iterdir() if file.name != "whole.json"}
    (newest / "whole.json").write_text(json.dumps(sizes))
    with pytest.warns(UserWarning, match="iteration-00000003: state.pt: cannot be read"):
        made(tmp_path, 4).train(resume=True)


def test_an_earlier_position_does_not_delete_what_it_writes(tmp_path):
    """Taken back to 2 of 6 by hand: with keep=2 the new 3 must not fall to the old 5 and 6."""
    made(tmp_path, 6, keep=6).train()
    back = made(tmp_path, 3, keep=2)
    back.restore(tmp_path / "checkpoints" / "iteration-00000002")
    back.train()
    names = [path.name for path in back.checkpoints.found()]
    assert names == [f"iteration-{k:08d}" for k in (2, 3, 4, 5, 6)]


def test_a_checkpoint_on_its_way_to_being_replaced_is_not_lost(tmp_path):
    """Killed between the two renames of a checkpoint that is written a second time."""
    run = made(tmp_path, 2, keep=1)
    run.train()
    folder = tmp_path / "checkpoints"
    (folder / "iteration-00000002").rename(folder / ".replaced-00000002")
    again = made(tmp_path, 3, keep=1)
    again.train(resume=True)
    assert again.done == 3 and [path.name for path in folder.iterdir()] == ["iteration-00000003"]


# a full disk


def in_a_fork(work: Callable[[], None]) -> int | None:
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()
    return child.exitcode


def test_a_full_disk_says_so_and_loses_nothing_older(tmp_path):
    run = made(tmp_path, 2)
    run.train()
    said = tmp_path / "said"

    def limited() -> None:
        again = made(tmp_path, 4)
        again.restore(tmp_path / "checkpoints" / "iteration-00000002")
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
        try:
            again.train()
        except OSError as error:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            said.write_text(str(error))

    assert in_a_fork(limited) == 0
    text = said.read_text()
    assert "checkpoint: could not be written: process-0.pt: " in text and "free space" in text
    assert "iteration-00000002, " in text
    folder = tmp_path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["iteration-00000001", "iteration-00000002"]
    made(tmp_path, 3).train(resume=True)


def test_a_full_disk_under_the_log_says_so(tmp_path):
    run = made(tmp_path, 200, checkpoint_every=500)
    said = tmp_path / "said"

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
        try:
            run.train()
        except OSError as error:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            said.write_text(str(error))

    assert in_a_fork(limited) == 0
    assert "log.jsonl: could not be written" in said.read_text() and "free space" in said.read_text()


# other settings


def other(x: Tensor, context: Any = None) -> Tensor:
    return reward(x)


CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "objective": ({"objective": DDPO()}, {"objective": FlowGRPO()}, r"objective \(DDPO -> FlowGRPO\)"),
    "kl": ({"objective": DRaFT(kl=0.1)}, {"objective": DRaFT(kl=0.2)}, r"objective.kl \(0.1 -> 0.2\)"),
    "clip of the objective": (
        {"objective": DDPO(clip=0.1)},
        {"objective": DDPO(clip=0.2)},
        r"objective.clip \(0.1 -> 0.2\)",
    ),
    "advantages": (
        {"objective": DDPO()},
        {"objective": DDPO(OverBatch(Scale.NONE))},
        r"objective.advantages.scale \(Scale.BATCH -> Scale.NONE\)",
    ),
    "buffer": (
        {"objective": DDPO(PerPrompt(16, 8))},
        {"objective": DDPO(PerPrompt(8, 8))},
        r"objective.advantages.buffer \(16 -> 8\)",
    ),
    "critic": (
        {"objective": DPOK(critic=Critic(StateValue(2), lr=1e-3))},
        {"objective": DPOK(critic=Critic(StateValue(2), lr=1e-2))},
        r"objective.critic.optimiser.lr \(0.001 -> 0.01\)",
    ),
    "plan": ({}, {"eta": 0.5}, r"plan \(DDIM.* -> DDIM.*\)"),
    "reward": ({}, {"scored": other}, r"reward \(.*reward -> .*other\)"),
    "a reward's field": (
        {"scored": QuadraticReward(torch.ones(2))},
        {"scored": QuadraticReward(torch.zeros(2))},
        r"reward.centre \(.* -> .*\)",
    ),
    "a composition": (
        {"scored": LinearReward(torch.ones(2)).clip(-1.0, 1.0)},
        {"scored": LinearReward(torch.ones(2)).clip(-2.0, 1.0)},
        r"reward.lo \(-1.0 -> -2.0\)",
    ),
    "clip": ({"clip": 0.1}, {"clip": 0.2}, r"clip \(0.1 -> 0.2\)"),
    "heldout": ({}, {"given": {"heldout": {"judge": other}}}, r"heldout.judge \(nothing -> .*other\)"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_settings_that_changed_are_named(tmp_path, name):
    before, after, said = CHANGES[name]
    made(tmp_path, 1, **before).train()
    with pytest.warns(UserWarning, match=rf"changed since: ([^,]*, )*{said}"):
        made(tmp_path, 2, **after).train(resume=True)


def test_prompts_and_steps_that_changed_are_named(tmp_path):
    def run(iterations: int, repeats: int, steps: int) -> RewardTrainer:
        from problems import PROCESS
        from tuning import config, plan

        from pullback.solvers import DATA, Denoiser

        numbers = config(tmp_path, iterations=iterations, **USUAL)
        return RewardTrainer(
            Denoiser(Net(), PROCESS, DATA), plan(steps=steps), Pathwise(), reward, prompts(repeats), numbers
        )

    run(1, 2, 4).train()
    with pytest.warns(UserWarning, match=r"plan.steps \(4 -> 5\).*prompts.repeats \(2 -> 4\)"):
        run(2, 4, 5).train(resume=True)


def test_the_same_settings_are_the_same_after_training(tmp_path):
    """What an objective learns while it trains is no setting."""
    for name, objective in {
        "fields": lambda: ScoreFunction(),
        "past": lambda: DDPO(PerPrompt(4, 2)),
        "critic": lambda: DPOK(critic=Critic(StateValue(2))),
    }.items():
        used = objective()
        made(tmp_path / name, 2, objective=used, scored=Brightness(), full=False).train()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for iterations, again in ((3, objective()), (4, used)):
                made(tmp_path / name, iterations, objective=again, scored=Brightness(), full=False).train(
                    resume=True
                )
        assert not [str(one.message) for one in said if "changed" in str(one.message)]


def test_a_state_that_the_objective_cannot_take_is_refused(tmp_path):
    made(tmp_path, 1, objective=DDPO()).train()
    with pytest.raises(ValueError, match=r"state that the objective.*OverBatch -> PerPrompt"):
        made(tmp_path, 2, objective=DDPO(PerPrompt(8, 4))).train(resume=True)


def test_rates_and_decay_take_their_new_values(tmp_path):
    made(tmp_path, 1).train()
    again = made(tmp_path, 2, lr=1e-3, weight_decay=0.1, betas=(0.8, 0.99))
    with pytest.warns(UserWarning, match=r"lr \(0.01 -> 0.001\), betas \(.*\), weight_decay \(0.0 -> 0.1\)"):
        again.train(resume=True)
    group = again.optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["betas"]) == (1e-3, 0.1, (0.8, 0.99))


def test_what_is_new_below_what_changed_is_not_listed_too():
    assert changes({"a": "1", "b": "X", "b.c": "1"}, {"a": "1", "b": "Y", "b.d": "2"}) == ["b (X -> Y)"]
    assert changes({"a": "1"}, {"a": "2", "b": "3"}) == ["a (1 -> 2)", "b (nothing -> 3)"]
