"""What noise in the steps is best for, and whether it can be learned: eta against a teacher, and against the law.

    python benchmarks/learned_eta.py      about 3 minutes of one core

writes benchmarks/results/learned_eta.json. DDIM(eta) from the same noise: the median RMS distance to a deterministic
teacher of 60 calls, which is what `learn_solver` minimises, and the energy distance of 1,000 samples to 1,000 draws of
the data (of the mixture; of scikit-learn's digits under the bundled network), with the standard deviation over four
quarters of them. Then one strength tau of the noise in all steps, and one in each, learned by the gradient of that
energy distance through the run on 128 samples, and judged on the 1,000.
"""

import json
import math
import pathlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "examples"))

from learned import median, problem, teacher  # noqa: E402

from pullback.adjoint import Checkpoint, sample  # noqa: E402
from pullback.solvers import DDIM, Addressed, Mixture, Model, Plan, SASolver, UniformLambda, compiled  # noqa: E402
from pullback.zoo import digit_images  # noqa: E402

OUT = HERE / "results" / "learned_eta.json"
ETAS = (0.0, 0.25, 0.5, 0.75, 1.0)
CALLS = {"mixture": (5, 10, 20), "digits": (10,)}
COUNT, TRAIN, UPDATES = 1000, 128, 25
JUDGED, PATHS, LEARNED = 0, 2, 3  # seeds


@dataclass(frozen=True)
class Strengths:
    """tau of step k, for nodes at these lambda."""

    lam: tuple[float, ...]
    tau: tuple[float, ...]

    def __call__(self, lam: float) -> float:
        k = sum(lam > node for node in self.lam[1:-1])
        return self.tau[min(k, len(self.tau) - 1)]


def energy(a: Tensor, b: Tensor) -> Tensor:
    """Energy distance 2 E|a - b| - E|a - a'| - E|b - b'| of two samples, without bias."""
    a, b = a.flatten(1).double(), b.flatten(1).double()
    within = [torch.pdist(each).mean() for each in (a, b)]
    return 2 * torch.cdist(a, b).mean() - within[0] - within[1]


def data(name: str, seed: int, count: int) -> tuple[Tensor, Tensor | None]:
    """(draws of the data, their labels)."""
    g = torch.Generator().manual_seed(seed)
    if name == "mixture":
        g0 = torch.Generator().manual_seed(5)
        means = torch.randn(8, 16, generator=g0, dtype=torch.float64)  # as in learned.problem
        mixture = Mixture.isotropic(torch.full((8,), 1 / 8).double(), means, torch.full((8,), 0.2).double())
        return mixture.sample(count, g), None
    images, labels = digit_images()
    mine = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    rows = mine[:COUNT] if seed == JUDGED else mine[COUNT:]  # none is both learned from and judged on
    rows = rows[torch.randperm(len(rows), generator=g)[:count]]
    return images[rows], labels[rows]


def grid(calls: int) -> UniformLambda:
    return UniformLambda(calls, start=1.0, end=0.01)


def runs(name: str, seed: int, count: int) -> tuple[Model, Tensor, Tensor | None, Tensor]:
    """(model, noise, labels, data)."""
    model, shape, dtype = problem(name)
    target, labels = data(name, seed, count)
    g = torch.Generator().manual_seed(seed + 1)
    return model, torch.randn(count, *shape, generator=g, dtype=dtype), labels, target


def judged(name: str, plan: Plan) -> dict[str, float]:
    """On 1,000 samples that nothing was learned from."""
    model, x, labels, target = runs(name, JUDGED, COUNT)
    noise = Addressed(7) if plan.stochastic else None
    out = sample(model, plan, x, cond=labels, noise=noise, gradient=None)
    parts = [float(energy(a, b)) for a, b in zip(out.chunk(4), target.chunk(4), strict=True)]
    spread = float(torch.tensor(parts).std()) / 2
    return {"energy distance": float(energy(out, target)), "standard error": spread}


def pathwise(name: str, plan: Plan) -> float:
    """Median distance to the teacher from the same noise, 48 samples."""
    model, x, labels, _ = runs(name, PATHS, 48)
    truth = sample(model, teacher(name), x, cond=labels, gradient=None)
    noise = Addressed(7) if plan.stochastic else None
    return median(sample(model, plan, x, cond=labels, noise=noise, gradient=None), truth)


def learned(name: str, calls: int, each: bool) -> tuple[Plan, list[float]]:
    """(plan, its strengths) from the gradient of the energy distance in log tau."""
    model, x, labels, target = runs(name, LEARNED, TRAIN)
    lam = tuple(model.process.lam(grid(calls).times(model.process)).tolist())
    theta = torch.full((calls if each else 1,), math.log(0.3), dtype=torch.float64, requires_grad=True)

    def make(values: Tensor) -> Plan:
        tau = tuple(values.exp().expand(calls).tolist())
        return SASolver(1, 0, tau=Strengths(lam, tau)).plan(model.process, grid(calls))

    adam = torch.optim.Adam([theta], lr=0.15)
    for update in range(UPDATES):
        plan, values = compiled(make, theta, model)
        out = sample(
            model,
            plan,
            x,
            cond=labels,
            noise=Addressed(100 + update),
            coefficients=values,
            gradient=Checkpoint(),
        )
        adam.zero_grad()
        energy(out, target).backward()
        adam.step()
    return make(theta.detach()), theta.detach().exp().tolist()


def main() -> None:
    torch.set_num_threads(1)
    rows: dict[str, dict] = json.loads(OUT.read_text())["rows"] if OUT.exists() else {}
    todo: list[tuple[str, Callable[[], dict]]] = []
    for name, counts in CALLS.items():
        for calls in counts:
            for eta in ETAS:

                def of_eta(name=name, calls=calls, eta=eta) -> dict:
                    plan = DDIM(eta).plan(problem(name)[0].process, grid(calls))
                    return judged(name, plan) | {"to the teacher": pathwise(name, plan)}

                todo.append((f"{name}/{calls} calls/eta {eta:g}", of_eta))
            for each in (False, True):

                def of_learned(name=name, calls=calls, each=each) -> dict:
                    began = time.process_time()
                    plan, tau = learned(name, calls, each)
                    spent = time.process_time() - began
                    return judged(name, plan) | {"tau": tau, "seconds of one core": spent}

                todo.append(
                    (f"{name}/{calls} calls/learned, {'each step' if each else 'one number'}", of_learned)
                )
    for key, make in todo:
        if key not in rows:
            rows[key] = make()
            print(key, rows[key], flush=True)
            OUT.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
