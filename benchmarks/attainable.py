"""What the best of N Gaussian steps can have of a tilted mixture: E r against N, and the tilted law's own.

    python benchmarks/attainable.py      writes benchmarks/results/attainable.json

Law, reward and beta are those of `examples/tilted_mixture.py`, by dynamic programming as there.
"""

import json
import pathlib
import sys

import torch

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "examples"))

from shared.attainable import best_gaussian_steps  # noqa: E402
from tilted_mixture import BETA, LAW, REWARD, draws  # noqa: E402

from pullback.solvers import DDIM, VP, Addressed, UniformLambda  # noqa: E402

STEPS, COUNT = (10, 16, 25, 40), 8000


def main() -> None:
    torch.set_num_threads(1)
    exact = draws(REWARD.tilted(LAW, BETA), COUNT, torch.Generator().manual_seed(0))
    found = {"the tilted law": float(REWARD(exact).mean())}
    noise = Addressed(1, stream=1)
    start = noise.initial(torch.zeros(COUNT, 2))
    for n in STEPS:
        plan = DDIM(1.0).plan(VP(), UniformLambda(n, start=1.0, end=0.01))
        best, _ = best_gaussian_steps(plan, LAW.denoiser(plan.process), REWARD, BETA, start, noise)
        found[f"the best of {n} Gaussian steps"] = float(REWARD(best).mean())
        print(n, found[f"the best of {n} Gaussian steps"], flush=True)
    (HERE / "results" / "attainable.json").write_text(json.dumps({"reward": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
