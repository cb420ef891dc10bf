"""Defaults of everything that optimises what enters a sampler, on problems whose optimum is known.

    python benchmarks/latents.py

writes benchmarks/results/latents.json: for each routine and problem the mean objective above its optimum, at the start
and at the end, with no argument set but the sampler, the loss and the start. On Gaussian data the sampler is an affine
map, read off by its values on a basis; the optimum is that of an explicit function, by long L-BFGS from several starts.
On the mixture it is found through the sampler in the same way.
"""

import argparse
import json
import pathlib
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pullback.adjoint import Direct, sample
from pullback.guidance import ChiPrior, Concentration, d_flow, dno, doodl, flow_grad, oc_flow, optimise, reno
from pullback.solvers import DDIM, VP, FlowEuler, Gaussian, Mixture, RectifiedFlow, UniformLambda, UniformT

HERE = pathlib.Path(__file__).parent
BATCH = 3
Loss = Callable[[Tensor], Tensor]


class Problem(NamedTuple):
    law: Mixture
    loss: Loss
    size: int


def problems() -> dict[str, Problem]:
    g = torch.Generator().manual_seed(11)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    root = normal(5, 5) / 2
    law = Gaussian(normal(5), root @ root.T + 0.1 * torch.eye(5))
    a, y = normal(3, 5), normal(3)
    white = Gaussian(torch.zeros(32), torch.eye(32) + 0.01)
    seen = torch.arange(32) % 2 == 0
    pixels = normal(16)
    means = 1.5 * normal(4, 4)
    mixture = Mixture.isotropic(torch.full((4,), 0.25), means, torch.tensor([0.3, 0.4, 0.5, 0.35]))
    far = 4 * law.covs[0].diagonal().sqrt() + law.means[0]
    return {
        "Gaussian, s = 0.3": Problem(law, lambda x: (x @ a.T - y).square().sum(1) / (2 * 0.3**2), 5),
        "Gaussian, s = 0.03": Problem(law, lambda x: (x @ a.T - y).square().sum(1) / (2 * 0.03**2), 5),
        "Gaussian, 4 std away": Problem(law, lambda x: (x - far).square().sum(1) / 2, 5),
        "near-white, half masked, s = 0.05": Problem(
            white, lambda x: (x[:, seen] - pixels).square().sum(1) / (2 * 0.05**2), 32
        ),
        "mixture, distance": Problem(mixture, lambda x: (x - means[0] - 0.2).square().sum(1), 4),
        "mixture, class": Problem(
            mixture, lambda x: -(-(x[:, None] - means).square().sum(2)).log_softmax(1)[:, 1], 4
        ),
    }


class Routine(NamedTuple):
    """What it minimises of its variables (one tensor for each), and the call with its defaults."""

    run: Callable
    shapes: Callable  # of the variables, without the batch
    penalty: Callable  # of the variables
    flow: bool
    noisy: bool = False
    sphere: bool = False


def nothing(*variables: Tensor) -> Tensor | float:
    return 0.0


CHI, TYPICAL = ChiPrior(0.01), Concentration()
ROUTINES = {
    "optimise": Routine(optimise, lambda d, n: [(d,)], nothing, False),
    "d_flow": Routine(d_flow, lambda d, n: [(d,)], lambda x: CHI(x), False),
    "reno": Routine(reno, lambda d, n: [(d,)], lambda x: CHI(x), False),
    "doodl": Routine(doodl, lambda d, n: [(d,)], nothing, False, sphere=True),
    "dno": Routine(dno, lambda d, n: [(d,), (n, d)], lambda x, e: TYPICAL(x) + TYPICAL(e), False, noisy=True),
    "flow_grad": Routine(flow_grad, lambda d, n: [(n, d)], nothing, True),
    "oc_flow": Routine(oc_flow, lambda d, n: [(n, d)], lambda u: u.square().flatten(1).sum(1) / 2, True),
}


def objective(name: str, problem: Problem, x: Tensor, n: int = 6):
    """(total of the variables, where they start, the run)."""
    how = ROUTINES[name]
    process = RectifiedFlow() if how.flow else VP()
    if how.flow:
        plan = FlowEuler().plan(process, UniformT(n, start=1.0, end=0.0))
    else:
        plan = DDIM(float(how.noisy)).plan(process, UniformLambda(n, start=0.95, end=0.02))
    model = problem.law.denoiser(process)
    g = torch.Generator().manual_seed(5)
    noise = torch.randn(len(x), n, problem.size, generator=g)
    start = [torch.zeros(len(x), n, problem.size)] if how.flow else [x, noise] if how.noisy else [x]

    def through(*values: Tensor) -> Tensor:
        if how.flow:
            rows = len(values[0])
            begin = x[:rows] if rows <= len(x) else x[:1].expand(rows, -1)
            return sample(model, plan, begin, controls=values[0].movedim(1, 0), gradient=Direct())
        if how.noisy:
            return sample(model, plan, values[0], noise=values[1].movedim(1, 0), gradient=Direct())
        radius = x.norm(dim=1, keepdim=True)
        z = values[0] * (radius / values[0].norm(dim=1, keepdim=True)) if how.sphere else values[0]
        return sample(model, plan, z, gradient=Direct())

    def total(*values: Tensor) -> Tensor:
        return problem.loss(through(*values)) + how.penalty(*values)

    def run():
        given = {"noise": noise.movedim(1, 0)} if how.noisy else {}
        more = {"gradient": Direct()} if how.sphere else {}  # DDIM is not reversible
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            if how.noisy:
                found = how.run(model, plan, problem.loss, x, given["noise"], progress=False)
            else:
                found = how.run(model, plan, problem.loss, x, progress=False, **more)
        return found, [str(w.message)[:60] for w in said]

    return total, start, run


def least(total: Callable, starts: list[list[Tensor]]) -> Tensor:
    """The least value (B,) that long L-BFGS finds from any of the starts."""
    best = torch.full((len(starts[0][0]),), torch.inf)
    for start in starts:
        values = [v.detach().clone().requires_grad_() for v in start]
        maker = torch.optim.LBFGS(values, max_iter=300, tolerance_grad=1e-10, tolerance_change=1e-14,
                                  line_search_fn="strong_wolfe", history_size=30)  # fmt: skip

        def closure(values=values, maker=maker):
            maker.zero_grad()
            value = total(*values).sum()
            value.backward()
            return value

        for _ in range(2):
            maker.step(closure)
        with torch.enable_grad():
            now = total(*values).detach()
        best = torch.where(now.isfinite() & (now < best), now, best)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results" / "latents.json")
    chosen = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    rows = []
    for label, problem in problems().items():
        g = torch.Generator().manual_seed(3)
        x = torch.randn(BATCH, problem.size, generator=g)
        for name in ROUTINES:
            total, start, run = objective(name, problem, x)
            found, said = run()
            others = [[torch.randn(v.shape, generator=g) for v in start] for _ in range(3)]
            ends = [found.controls.movedim(1, 0)] if ROUTINES[name].flow else [found.x]
            if ROUTINES[name].noisy:
                ends += [found.noise.movedim(1, 0)]
            optimum = least(total, [start, ends, *others])
            begin = total(*[v.clone().requires_grad_() for v in start]).detach()
            row = {
                "problem": label, "routine": name, "start": float((begin - optimum).mean()),
                "end": float((found.loss - optimum).mean()), "optimum": float(optimum.mean()),
                "evaluations": len(found.losses), "stop": found.stop.name, "said": said,
            }  # fmt: skip
            rows.append(row)
            print(f"{label:35s} {name:10s} {row['start']:12.4g} -> {row['end']:10.3g}  (optimum {row['optimum']:9.3g}) "
                  f"{row['evaluations']:4d} evaluations, {row['stop']} {said}", flush=True)  # fmt: skip

    chosen.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
