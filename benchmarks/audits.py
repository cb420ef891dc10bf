"""`audit` with every strategy on a smooth and on rough networks, and how often its estimate of the flow is right.

    python benchmarks/audits.py      writes benchmarks/results/audits.json

Two errors of the gradient at the starting noise and at a shift of the network's output, together: from the exact
gradient of the run (N calls of DPM-Solver++(2M); what `audit` prints), and from the flow's own, for which stands
`Checkpoint` on many steps of DPM-Solver++(3). Smooth: the posterior mean of a mixture. Rough: random perceptrons, and
the bundled digits. A strategy is one entry of STRATEGIES. The second table asks, of networks on which nothing was
chosen, whether `audit`'s estimate says rightly which of `Checkpoint` and `Continuous` is nearer to the flow.
"""

import argparse
import json
import math
import pathlib
import platform
import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from continuous import Exact, Perceptron
from torch import Tensor, nn

from pullback.adjoint import (
    AdjointDEIS,
    Audit,
    Checkpoint,
    Continuous,
    Direct,
    Gradient,
    JacobianFree,
    Reversible,
    SkipStraight,
    States,
    Truncated,
    audit,
    sample,
)
from pullback.solvers import (
    DATA,
    FLOW,
    NOISE,
    VP,
    Denoiser,
    DPMSolverPP,
    FlowEuler,
    Karras,
    Method,
    Mixture,
    Plan,
    ReversibleHeun,
    UniformLambda,
    UniformT,
    V,
)

HERE = pathlib.Path(__file__).parent

RUN = DPMSolverPP(2)
# name: strategy, and the method of the run where it is not RUN
STRATEGIES: dict[str, tuple[Gradient, Method]] = {
    "Direct()": (Direct(), RUN),
    "Checkpoint()": (Checkpoint(), RUN),
    "Reversible(), a run of ReversibleHeun": (Reversible(), ReversibleHeun()),
    "Continuous()": (Continuous(), RUN),
    "Continuous(method=DPMSolverPP(2))": (Continuous(method=DPMSolverPP(2)), RUN),
    "Continuous(steps=N/2)": (Continuous(10), RUN),
    "Continuous(states=RESOLVED)": (Continuous(states=States.RESOLVED), RUN),
    "AdjointDEIS(1)": (AdjointDEIS(), RUN),
    "AdjointDEIS(2)": (AdjointDEIS(2), RUN),
    "AdjointDEIS(3)": (AdjointDEIS(3), RUN),
    "AdjointDEIS(4)": (AdjointDEIS(4), RUN),
    "Truncated(5)": (Truncated(5), RUN),
    "SkipStraight(0.1), a run of FlowEuler": (SkipStraight(0.1), FlowEuler()),
    "JacobianFree()": (JacobianFree(), RUN),
}


class Problem(NamedTuple):
    """A network, and where the gradient of a squared distance is taken on it."""

    name: str
    model: Denoiser
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float64
    fine: int = 400

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        g = torch.Generator().manual_seed(7)
        x, target = (torch.randn(8, *self.shape, generator=g).to(self.dtype) for _ in range(2))
        return x.requires_grad_(), torch.zeros(8, *self.shape, dtype=self.dtype).requires_grad_(), target

    def audit(self, plan: Plan, strategies: dict[str, Any], reference: Gradient | None = None) -> Audit:
        x, shift, target = self.inputs()

        def loss(out: Tensor) -> Tensor:
            return (out - target).square().flatten(1).sum(1)

        return audit(
            self.model, plan, x, loss, strategies, cond=shift, reference=reference or Direct(), repeats=1
        )


class Shifted(nn.Module):
    """A network whose output the conditioning shifts."""

    def __init__(self, network: nn.Module, *cond: Tensor) -> None:
        super().__init__()
        self.network, self.cond = network, cond

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return self.network(x, t, *self.cond) + cond


def bundled(name: str, shape: tuple[int, ...]) -> Problem:
    from pullback.zoo import denoiser

    found = denoiser(name)
    labels = (torch.arange(8),) if "digits" in name else ()
    network = Shifted(found.network, *labels)  # type: ignore[arg-type]
    return Problem(name, Denoiser(network, found.process, found.prediction), shape, torch.float32, 80)


def mixture(seed: int, dim: int, parts: int, spread: float, kind: Any) -> Problem:
    g = torch.Generator().manual_seed(seed)
    means, widths = torch.randn(parts, dim, generator=g) * spread, torch.full((parts,), 0.3)
    law = Mixture.isotropic(torch.full((parts,), 1 / parts), means, widths)
    return Problem(f"mixture {seed} as {kind.name}", Denoiser(Exact(law, kind), VP(), kind), (dim,))


def perceptron(seed: int, rate: float, gain: float, kind: Any) -> Problem:
    network = Perceptron(rate, gain, seed).requires_grad_(False)
    return Problem(
        f"perceptron {seed} as {kind.name}, rate {rate:g}, gain {gain:g}", Denoiser(network, VP(), kind), (6,)
    )


def shown() -> Iterator[Problem]:
    yield mixture(0, 6, 5, 1.0, DATA)
    yield perceptron(1, 20.0, 2.0, NOISE)
    yield perceptron(1, 20.0, 2.0, DATA)
    yield bundled("digits", (1, 8, 8))


def held_out() -> Iterator[Problem]:
    for seed, dim, parts, spread in (
        (101, 4, 3, 0.8),
        (102, 10, 7, 0.6),
        (103, 3, 5, 1.2),
        (104, 16, 8, 0.5),
    ):
        for kind in (DATA, NOISE):
            yield mixture(seed, dim, parts, spread, kind)
    for kind in (NOISE, DATA, V):
        for seed, rate, gain in ((201, 1.0, 1.5), (202, 5.0, 1.0), (203, 2.0, 2.0), (204, 15.0, 1.5)):
            yield perceptron(seed, rate, gain, kind)
    yield bundled("digits", (1, 8, 8))
    yield bundled("digits_flow", (1, 8, 8))


def plan_of(problem: Problem, method: Method, n: int, grid: Any = UniformLambda) -> Plan:
    start, end = (0.97, 0.03) if problem.model.prediction == FLOW else (1.0, 0.01)
    return method.plan(problem.model.process, grid(n, start=start, end=end))


def table(problem: Problem, n: int) -> dict[str, Any]:
    """Both errors of every strategy on one network."""
    plan, entries = plan_of(problem, RUN, n), dict[str, Any]()
    for name, (strategy, method) in STRATEGIES.items():
        entries[name] = strategy if method is RUN else (strategy, plan_of(problem, method, n))
    own = {row.name: row for row in problem.audit(plan, entries).rows}
    beside = {name: entry if isinstance(entry, tuple) else (entry, plan) for name, entry in entries.items()}
    fine = plan_of(problem, DPMSolverPP(3), problem.fine)
    flow = {row.name: row for row in problem.audit(fine, beside, Checkpoint()).rows}
    rows = {}
    for name in STRATEGIES:
        a, b = own[name], flow[name]
        rows[name] = {
            "from the run's": rounded(a.error), "cosine": round(a.cosine, 4), "from the flow's": rounded(b.error),
            "estimate": a.flow and rounded(a.flow), "calls": a.calls, "vjps": a.vjps,
            "KiB": round(a.memory / 1024, 1),
        }  # fmt: skip
        print(f"{problem.name[:34]:34s} {name:38s} {rows[name]}", flush=True)
    return {"network": problem.name, "N": n, "rows": rows}


def gradient(problem: Problem, plan: Plan, strategy: Gradient) -> Tensor:
    x, shift, target = problem.inputs()
    out = sample(problem.model, plan, x, cond=shift, gradient=strategy)
    found = torch.autograd.grad((out - target).square().sum(), [x, shift])
    return torch.cat([value.flatten().double() for value in found])


def predicted(problem: Problem, k: int, steps: list[int]) -> Iterator[dict[str, Any]]:
    """Whether the estimate tells which of two is nearer to the flow, for each number of steps."""
    grid = (UniformLambda, UniformT, Karras)[k % 3] if problem.model.prediction != FLOW else UniformT
    truth = gradient(problem, plan_of(problem, DPMSolverPP(3), problem.fine), Checkpoint())
    for n in steps:
        plan = plan_of(problem, RUN, n, grid)
        own = {row.name: row.flow for row in problem.audit(plan, {"Continuous": Continuous()}).rows}
        exact, ours = (
            float((gradient(problem, plan, how) - truth).norm() / truth.norm())
            for how in (Checkpoint(), Continuous())
        )
        said = (own["Continuous"] or 0) / (own["Direct (reference)"] or 1)
        found = {
            "network": problem.name, "grid": grid.__name__, "N": n, "error of Checkpoint": rounded(exact),
            "Continuous over Checkpoint": rounded(ours / exact), "estimated": rounded(said),
            "right": (said < 1) == (ours < exact),
        }  # fmt: skip
        print(found, flush=True)
        yield found


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    def rate(chosen: list[dict[str, Any]]) -> list[float]:
        return (
            [round(statistics.fmean(row["right"] for row in chosen), 3), len(chosen)]
            if chosen
            else [math.nan, 0]
        )

    return {
        "all": rate(rows),
        "where they differ by a quarter": rate(
            [row for row in rows if abs(math.log(row["Continuous over Checkpoint"])) > math.log(1.25)]
        ),
        "where Checkpoint is less than 10 % off": rate(
            [row for row in rows if row["error of Checkpoint"] < 0.1]
        ),
        "always Continuous": round(
            statistics.fmean(row["Continuous over Checkpoint"] < 1 for row in rows), 3
        ),
    }


def rounded(value: float) -> float:
    return float(f"{value:.3g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="*", default=(10, 20, 40))
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results" / "audits.json")
    chosen = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    rows = [row for k, problem in enumerate(held_out()) for row in predicted(problem, k, list(chosen.steps))]
    tables = [table(problem, 20) for problem in shown()]
    found = {
        "torch": torch.__version__, "machine": platform.machine(), "threads": 1, "tables": tables,
        "estimate is right": summary(rows), "runs": rows,
    }  # fmt: skip
    print(found["estimate is right"])
    chosen.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
