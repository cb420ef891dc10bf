"""Two gloo processes fine-tune a diffusers pipeline as one process with the whole batch does."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import accelerate
import pytest
import torch
from pipelines import prompted
from pipelines.build import scheduler
from pipelines.case import single
from pipelines.stable_diffusion import SD
from torch import Tensor
from tuning import config, logged
from two_ranks import two_ranks

from pullback.guidance import DDPO, DecodedReward, DRaFT, Objective, RewardTrainer, TextPrompts, lora
from pullback.solvers.pipelines import from_diffusers

HERE = pathlib.Path(__file__).parent
TEXTS = ["a red cat", "an owl at night", "a dog", "a house"]
OBJECTIVES: dict[str, Callable[[], Objective]] = {"DRaFT": DRaFT, "DDPO": DDPO}


def redness(pictures: Tensor, context: Any = None) -> Tensor:
    """By how much red lies above green and blue."""
    return (pictures[:, 0] - pictures[:, 1:].mean(1)).flatten(1).mean(1)


def made(out: pathlib.Path, name: str, **how: Any) -> RewardTrainer:
    """A trainer of fresh adapters, always of the same weights, four samples of four prompts an update."""
    with single():
        pipe = prompted.sd15_with_text()
    pipe.to(torch.float64)  # in float32 Adam makes steps of the rounding of gradients that are nearly zero
    pipe.scheduler = scheduler("DDIM", **SD, clip_sample=False)
    found = from_diffusers(pipe, 2, prompt="a picture", height=16, width=16, guidance_scale=3.0, eta=1.0)
    settings = config(
        out / name, iterations=2, samples=4, lr=1e-2, ema=None, evaluate_every=None, checkpoint_every=100,
        limit=how.pop("limit"),
    )  # fmt: skip
    reward = DecodedReward(found.decode, redness)
    source = TextPrompts(found, TEXTS, negative="blurry")
    return RewardTrainer(
        lora(found.model, 2), found.plan, OBJECTIVES[name](), reward, source, settings, **how
    )


def result(run: RewardTrainer) -> dict[str, Any]:
    before = {key: value.detach().clone() for key, value in run.weights.items()}
    run.train()
    after = {key: value.detach().clone() for key, value in run.weights.items()}
    rows = [{key: row[key] for key in ("reward", "loss", "gradient_norm")} for row in logged(run.config.out)]
    return {"before": before, "after": after, "log": rows}


def work(folder: str) -> None:
    """One of the processes, two samples at a time."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(int(os.environ["RANK"]))  # global generators differ, as they do in practice
    here = accelerate.Accelerator(cpu=True)
    found = {name: result(made(pathlib.Path(folder), name, limit=2, accelerator=here)) for name in OBJECTIVES}
    torch.save(found, pathlib.Path(folder) / f"{os.environ['RANK']}.pt")
    torch.distributed.destroy_process_group()


def flat(weights: dict[str, Tensor]) -> Tensor:
    return torch.cat([weights[key].double().flatten() for key in sorted(weights)])


@pytest.mark.slow
def test_two_processes_train_a_pipeline_as_one_does(tmp_path: pathlib.Path):
    code = "import conftest, sys, test_pipelines_distributed as d; d.work(sys.argv[3])"
    two_ranks(code, tmp_path, at=[HERE], seconds=120)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name in OBJECTIVES:
        one = result(made(tmp_path / "one", name, limit=4))
        moved = (flat(one["after"]) - flat(one["before"])).norm()
        assert moved > 1e-2
        for found in (rank[name] for rank in ranks):
            assert torch.equal(flat(found["before"]), flat(one["before"]))
            assert (flat(found["after"]) - flat(one["after"])).norm() < 1e-7 * moved
            for row, want in zip(found["log"], one["log"], strict=True):
                assert row == pytest.approx(want, rel=1e-7, abs=1e-10)
        first, second = (flat(rank[name]["after"]) for rank in ranks)
        assert torch.equal(first, second)
