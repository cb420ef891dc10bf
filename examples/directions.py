"""What a sampler varies in most easily: the singular directions of noise -> digit, found by products with its Jacobian.

Each row is one digit. Its noise is moved along v_1, the unit direction with the greatest change |J v_1| of the sample,
as far to either side; so along v_2; and along a random direction, the baseline. No label and no classifier is used to
find them; a classifier tells how often the digit has become another one.
"""

# %%
from typing import Any

import torch
import torch.nn.functional as F
from common import digits_grid, options, pyplot, write
from torch import Tensor

from pullback.adjoint import linearised, sample, singular_directions
from pullback.solvers import Addressed, DPMSolverPP, UniformT
from pullback.zoo import denoiser, load

SHIFTS = (-1.0, -0.5, 0.0, 0.5, 1.0)


def main() -> None:
    run = options(__doc__, count=6, sampler_steps=10, rounds=4, length=3.0, probes=16)
    model, reader = denoiser("digits"), load("classifier0").to(run.device)
    model.network.to(run.device)  # type: ignore[attr-defined]
    plan = DPMSolverPP(2).plan(model.process, UniformT(run.sampler_steps))
    x = Addressed(run.seed).initial(torch.zeros(run.count, 1, 8, 8, device=run.device))
    found = singular_directions(model, plan, x, 2, rounds=run.rounds)
    linear = linearised(model, plan, x)
    # E |J u|^2 over random unit u is |J|_F^2 / d
    random = [unit(Addressed(run.seed, stream=1)(slot, x)) for slot in range(run.probes)]
    mean = torch.stack([linear.jvp(u).flatten(1).square().sum(1) for u in random]).mean(0)
    along = {"v1": found.vectors[:, 0], "v2": found.vectors[:, 1], "random": random[0]}
    moved = {name: line(model, plan, x, v, run.length) for name, v in along.items()}
    facts: dict[str, Any] = {
        "count": run.count,
        "nfe": run.sampler_steps,
        "length": run.length,
        "products": found.products,
    }
    facts["error"] = float(found.error.max())
    facts["gain"] = float((found.values[:, 0] / mean.sqrt()).median())
    facts["share"] = float((found.values.square().sum(1) / (64 * mean)).median())
    for name, images in moved.items():
        ends = torch.stack([images[0], images[-1]])
        read = reader(ends.flatten(0, 1)).argmax(1).reshape(2, -1)
        facts[name] = {
            "change": float((ends - images[2]).square().flatten(2).mean(2).sqrt().mean()),
            "another_digit": float((read != reader(images[2]).argmax(1)).double().mean()),
        }
    print(
        f"|J v1| is {facts['gain']:.1f} times that of a random direction; v1 and v2 hold {facts['share']:.0%} of |J|^2"
    )
    print({name: facts[name] for name in moved})
    write(run.out, "directions", draw(moved, facts), facts)


def unit(v: Tensor) -> Tensor:
    return v / v.flatten(1).norm(dim=1)[:, None, None, None]


def line(model, plan, x: Tensor, v: Tensor, length: float) -> list[Tensor]:
    """The samples where the noise is moved along v by the shifts, `length` at most."""
    return [sample(model, plan, x + shift * length * v, gradient=None) for shift in SHIFTS]


def draw(moved, facts):
    plt = pyplot()
    count = facts["count"]
    figure, axes = plt.subplots(1, 3, figsize=(13, 0.78 * count + 1), gridspec_kw={"wspace": 0.08})
    for axis, (name, images) in zip(axes, moved.items(), strict=True):
        rows = [
            F.pad(torch.stack([each[k] for each in images]), (2, 2, 2, 2), value=-1.0) for k in range(count)
        ]
        digits_grid(axis, rows)
        row = facts[name]
        axis.set_title(
            f"along {name}: change {row['change']:.2f}, another digit {row['another_digit']:.0%}", fontsize=10
        )
        axis.set(
            xticks=[6 + 12 * k for k in range(len(SHIFTS))],
            xticklabels=[f"{facts['length'] * s:+g}" for s in SHIFTS],
        )
        axis.tick_params(length=0)
    return figure


if __name__ == "__main__":
    main()
