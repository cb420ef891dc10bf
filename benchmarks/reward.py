"""Reward against KL, reward queries and seconds: every objective on the digits sampler, all weights trained.

    python benchmarks/reward.py [--seeds 0 1 2] [--only draft ddpo-sf]    writes benchmarks/results/reward.json, reward.png
                                                                         and docs/reward-results.md

Reward: log p(3 | x) of a classifier, beta = 1, so that the optimum is the base's own p(x | 3). Does an objective close half the
gap between the base's mean and the mean of its best of 64, on noise it never trained on, by three standard errors over seeds?
One more run is DDPO on JPEG size, which has no gradient. Figures are added to those already in reward.json, run by run.
"""

import argparse
import copy
import json
import math
import pathlib
import statistics
import sys
import tempfile
import time

import torch
from pullback.adjoint import sample
from pullback.guidance import ClassifierReward, JPEGSize, Prompt, Prompts, RewardTrainer, TrainConfig, lora
from pullback.guidance.log import read
from pullback.solvers import Addressed, UniformT

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "examples"))
STEPS, EVALUATION, BASE = 8, 128, 1024
# updates and samples of each: what fits into about 20 s of one core
BUDGET = {"draft": (32, 16), "draft-k": (40, 16), "draft-lv": (48, 16), "alignprop": (40, 16), "refl": (48, 16),
          "adjoint-matching": (40, 16), "ddpo-sf": (40, 32), "ddpo-is": (30, 32), "dpok": (24, 32), "flow-grpo": (30, 32),
          "dance-grpo": (36, 32), "ddpo-sf, jpeg": (40, 32)}
LR, RANK = 5e-3, 8


def base_model(name):
    """The network's sampler, its samples without training and what their best are worth."""
    from bundled import denoiser
    from finetune import settings

    how = settings(0.3 if name.endswith("jpeg") else 1.0)[name.split(",")[0]]  # beta per nat, in the reward's unit
    model = denoiser(how.network)
    plan = how.method.plan(model.process, UniformT(STEPS, start=1.0, end=0.02))
    start = torch.zeros(BASE, 1, 8, 8)
    noise = Addressed(123456)
    return how, model, plan, sample(model, plan, noise.initial(start), noise=noise, gradient=None)


def reward_of(name):
    from bundled import load

    if name.endswith("jpeg"):
        return -JPEGSize().normalise(0.392, 0.003)
    return ClassifierReward(load("classifier0"), 3)


def train(name, seed, folder):
    from bundled import load

    how, model, plan, base = base_model(name)
    tuned = lora(copy.deepcopy(model), RANK, seed=seed)
    updates, samples = BUDGET[name]
    config = TrainConfig(folder, updates, LR, samples=samples, seed=seed, evaluate_every=max(1, updates // 4),
                         evaluation_samples=EVALUATION, checkpoint_every=updates, tensorboard=False, progress=False)
    reward = reward_of(name)
    trainer = RewardTrainer(tuned, plan, how.objective, reward, Prompts([Prompt()], (1, 8, 8), repeats=how.repeats), config,
                            heldout={"judge": ClassifierReward(load("classifier1"), 3, log=False)})
    began = (time.perf_counter(), time.process_time())
    trainer.train()
    seconds, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
    rows = read(pathlib.Path(folder) / "log.jsonl")
    last = [row for row in rows if row["kind"] == "train"][-1]
    curve = [{key: row[key] for key in ("iteration", "reward", "reward_se", "kl", "judge", "diversity", "saturated")}
             for row in rows if row["kind"] == "evaluation"]
    values = reward(base)
    return {"name": name, "seed": seed, "curve": curve, "seconds": seconds, "cpu_seconds": cpu, "updates": updates,
            "queries": last["reward_queries"], "base_mean": float(values.mean()),
            "best_of_64": float(values.reshape(-1, 64).amax(1).mean())}


def frontier(name):
    """The best any sampler can do at a given KL: the base tilted by exp(r/beta), by importance weights on base samples."""
    values = reward_of(name)(base_model(name)[3]).double()
    out = []
    for beta in torch.logspace(2, -0.5, 40).tolist():
        weights = (values / beta).softmax(0)
        size = float(1 / weights.square().sum())
        if size > 30:
            kl = float((weights * weights.clamp_min(1e-300).log()).sum()) + math.log(len(weights))
            out.append((kl, float((weights * values).sum()), size))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--only", nargs="*", default=list(BUDGET), choices=list(BUDGET))
    run = parser.parse_args()
    torch.set_num_threads(1)
    file = HERE / "results" / "reward.json"
    facts = json.loads(file.read_text()) if file.exists() else {"runs": []}
    for seed in run.seeds:
        for name in run.only:
            with tempfile.TemporaryDirectory() as folder:
                found = train(name, seed, folder)
            facts["runs"] = [old for old in facts["runs"] if (old["name"], old["seed"]) != (name, seed)] + [found]
            file.write_text(json.dumps(facts, indent=1) + "\n")
            end = found["curve"][-1]
            print(f"{name:18s} seed {seed}: {end['reward']:.2f} at {end['kl']:.2f} nats, half the gap at "
                  f"{(found['base_mean'] + found['best_of_64']) / 2:.2f}; {found['cpu_seconds']:.0f} s of a core", flush=True)


if __name__ == "__main__":
    main()
