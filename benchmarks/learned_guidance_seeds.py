"""`examples/learned_guidance.py` on three seeds: how far its figures are those of its measurements and noise.

    python benchmarks/learned_guidance_seeds.py      about 5 minutes of one core

writes benchmarks/results/learned_guidance.json: every row's distance to the posterior for each seed, and over the seeds
the median, least and greatest of its ratio to the oracle's. Seeds that the file has are kept.
"""

import argparse
import json
import pathlib
import statistics
import sys

import torch

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "examples"))

import learned_guidance  # noqa: E402

OUT = HERE / "results" / "learned_guidance.json"
SEEDS = (0, 1, 2)


def ratios(found: list[dict]) -> dict[str, dict[str, float]]:
    """Of each row over the seeds."""
    table = {}
    for row in found[0]["distance"]:
        each = [run["distance"][row] / run["distance"]["oracle"] for run in found]
        table[row] = {"median": statistics.median(each), "least": min(each), "greatest": max(each)}
    return table


def main() -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    sizes = learned_guidance.SIZES
    seeds = json.loads(OUT.read_text())["seeds"] if OUT.exists() else {}
    for seed in SEEDS:
        if str(seed) in seeds:
            continue
        problems = learned_guidance.problems(sizes["steps"], seed)
        run = argparse.Namespace(**sizes)
        seeds[str(seed)] = {name: learned_guidance.compared(p, run) for name, p in problems.items()}
        for name, found in seeds[str(seed)].items():
            oracle = found["distance"]["oracle"]
            print(seed, name, {row: round(d / oracle, 2) for row, d in found["distance"].items()}, flush=True)
        names = list(problems)
        facts = {
            "torch": torch.__version__,
            "settings": sizes,
            "of the oracle": {name: ratios([found[name] for found in seeds.values()]) for name in names},
            "seeds": seeds,
        }
        OUT.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
