"""A plan of 5 calls learned from one of 60, in less than a minute of one core, on digits that it never saw."""

# %%
import math
import time
import warnings

import matplotlib.pyplot as plt
import torch
from common import options, write

from pullback.adjoint import sample
from pullback.guidance.learning import LearnedCoefficients, LearnedLabels, LearnedTimes, learn_solver
from pullback.solvers import VP, DPMSolverPP, UniformLambda
from pullback.zoo import denoiser


def main() -> None:
    run = options(__doc__, count=56, updates=15, shown=10)
    warnings.simplefilter("ignore")
    model, process, method = denoiser("digits"), VP(), DPMSolverPP(2, cap=math.inf)
    grid = lambda n: UniformLambda(n, start=1.0, end=0.01)  # noqa: E731
    teacher, plan = DPMSolverPP(3).plan(process, grid(60)), method.plan(process, grid(5))
    generator = torch.Generator().manual_seed(run.seed)
    x = torch.randn(run.count, 1, 8, 8, generator=generator, dtype=torch.float32)
    began = time.process_time()
    found = learn_solver(
        model,
        plan,
        teacher,
        x,
        learn=[LearnedTimes(method), LearnedCoefficients(), LearnedLabels()],
        cond=torch.arange(run.count) % 10,
        steps=run.updates,
        progress=False,
    )
    spent = time.process_time() - began
    fresh = torch.randn(48, 1, 8, 8, generator=generator, dtype=torch.float32)
    labels = torch.arange(48) % 10
    plans = {
        "teacher, 60 calls": teacher,
        "learned, 5 calls": found.plan,
        "2M, 5 calls": plan,
        "2M, 10 calls": method.plan(process, grid(10)),
    }
    drawn = {name: sample(model, p, fresh, cond=labels, gradient=None) for name, p in plans.items()}
    truth = drawn["teacher, 60 calls"]
    errors = {
        name: float((out - truth).flatten(1).square().mean(1).sqrt().median()) for name, out in drawn.items()
    }
    for name, error in errors.items():
        print(f"{name:20} median distance to the teacher {error:.4f}")
    print(f"learned in {spent:.0f} s of one core")
    shown = min(run.shown, 48)
    figure, axes = plt.subplots(5, shown, figsize=(shown, 5.4))
    rows = [(name, drawn[name][:shown, 0], "gray", (-1, 1)) for name in list(plans)[:3]]
    rows += [
        (f"{name}: off by", (drawn[name] - truth)[:shown, 0], "RdBu", (-0.3, 0.3))
        for name in list(plans)[1:3]
    ]
    for line, (name, images, colours, (low, high)) in zip(axes, rows, strict=True):
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image, cmap=colours, vmin=low, vmax=high)
            axis.set(xticks=[], yticks=[])
        line[0].set_title(name, loc="left", fontsize=9)
    figure.tight_layout()
    write(
        run.out,
        "learned_solver",
        figure,
        {"median distance": errors, "seconds of one core": spent, "calls": 5},
    )


if __name__ == "__main__":
    main()
