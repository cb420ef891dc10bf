"""The ODE parts of benchmarks/peers.py: gradients beside torchdiffeq and diffrax, their error, their time, their peaks.

`python benchmarks/peers_ode.py NAME STEPS` prints the peak of one way, for a process of its own; with a third argument,
whatever it is, as glibc is by itself, holes and all.
"""

import importlib.util
import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from measuring import LARGE, beside, by_turns, in_its_own_process, peak_bytes
from peers_exact import END, LAMBDAS, PROCESS, START, Law, draws, errors, gradients, model, slope, truth
from torch import Tensor, nn

from pullback.adjoint import (
    Backsolve,
    Checkpoint,
    Continuous,
    Direct,
    Gradient,
    Reversible,
    TorchDiffEq,
    sample,
)
from pullback.solvers import (
    DOPRI5,
    FLOW,
    Denoiser,
    DPMSolverPP,
    FlowEuler,
    Method,
    RectifiedFlow,
    ReversibleHeun,
    RhoRK,
    UniformLambda,
    UniformT,
    UniPC,
)

BUDGETS = (12, 24, 48, 96)
DIGITS = tuple(k / 2 for k in range(1, 17))  # tolerances 10^-k/2 of adaptive steps
OURS: list[tuple[Method, Gradient, int]] = [  # and the calls of a step
    (DPMSolverPP(2), Checkpoint(), 1),
    (DPMSolverPP(3), Checkpoint(), 1),
    (UniPC(3), Checkpoint(), 1),
    (RhoRK(DOPRI5), Checkpoint(), 6),
    (ReversibleHeun(), Reversible(), 1),
    (DPMSolverPP(2), Continuous(), 1),
]
JAX = importlib.util.find_spec("diffrax") is not None
Row = dict[str, Any]


def ours(budget: int, exact: tuple[Tensor, Tensor]) -> list[Row]:
    rows = []
    for method, strategy, stages in OURS:
        law, x = Law(), draws().requires_grad_()
        plan = method.plan(PROCESS, UniformLambda(budget // stages, start=START, end=END))
        out = sample(model(law), plan, x, gradient=strategy)
        forward, law.vjps = law.calls, 0
        found = gradients(law, x, out)
        rows.append(
            {"side": "pullback", "method": plan.name, "variable": "lambda", "gradient": type(strategy).__name__,
             "calls": forward, "calls_back": law.calls - forward, "vjps": law.vjps, **errors(found, exact),
             "budget": budget}
        )  # fmt: skip
    return rows


def torchdiffeq(method: str, fine: float, in_t: bool, adjoint: bool, exact: tuple[Tensor, Tensor]) -> Row:
    """`fine`: the step of a method with fixed steps, the tolerance of dopri5."""
    library: Any = importlib.import_module("torchdiffeq")
    law, x = Law(), draws().requires_grad_()

    class Field(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.law = law

        def forward(self, u: Tensor, x: Tensor) -> Tensor:
            return slope(law, u, x, in_t)

    ends = torch.tensor((START, END) if in_t else LAMBDAS, dtype=torch.float64)
    options = {"step_size": abs(fine) * (1 + 1e-12)} if method != "dopri5" else {"step_t": ends[1:]}
    tolerance = fine if method == "dopri5" else 1e-7
    solver = library.odeint_adjoint if adjoint else library.odeint
    out = solver(Field(), x, ends, method=method, rtol=tolerance, atol=tolerance, options=options)[-1]
    forward, law.vjps = law.calls, 0
    found = gradients(law, x, out)
    return {"side": "torchdiffeq", "method": method, "variable": "t" if in_t else "lambda",
            "gradient": "odeint_adjoint" if adjoint else "odeint", "calls": forward,
            "calls_back": law.calls - forward, "vjps": law.vjps, **errors(found, exact)}  # fmt: skip


def theirs(budgets: tuple[int, ...], digits: tuple[float, ...], exact: tuple[Tensor, Tensor]) -> list[Row]:
    rows = []
    for in_t in (True, False):
        length = START - END if in_t else LAMBDAS[1] - LAMBDAS[0]
        for adjoint in (False, True):
            for method, stages in (("midpoint", 2), ("rk4", 4), ("dopri5", 6)):
                ways = (
                    [10.0**-d for d in digits]
                    if method == "dopri5"
                    else [length / (b // stages) for b in budgets]
                )
                for fine in ways:
                    try:
                        rows.append(torchdiffeq(method, fine, in_t, adjoint, exact))
                    except AssertionError as failed:  # a step that vanishes, a state that is not finite
                        print(f"torchdiffeq {method} {fine:g} in {'t' if in_t else 'lambda'}: {failed}")
    return rows


def within(rows: list[Row], budget: int) -> list[Row]:
    """Of each side, method, variable and gradient the row with the most calls that the budget holds."""
    best: dict[tuple[str, ...], Row] = {}
    for row in rows:
        key = tuple(row[name] for name in ("side", "method", "variable", "gradient"))
        if row["calls"] <= budget * 1.03 + 1 and row["calls"] >= best.get(key, row)["calls"]:
            best[key] = row
    return [{**row, "budget": budget} for row in best.values()]


def accuracy(quick: bool) -> dict[str, Any]:
    """Errors against the exact flow's gradient at equal forward calls, float64."""
    budgets, digits = (BUDGETS[1:2], (3.0,)) if quick else (BUDGETS, DIGITS)
    exact = truth()
    rows = theirs(budgets, digits, exact)
    if JAX:
        import peers_diffrax

        rows += peers_diffrax.accuracy(budgets, digits, exact)
    kept = [row for budget in budgets for row in (*ours(budget, exact), *within(rows, budget))]
    return {"draws": len(exact[0]), "weights": len(exact[1]), "rows": kept, "every_run_of_peers": rows}


class Perceptron(nn.Module):
    """A velocity: three hidden layers, the time as one more number."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        layers = [nn.Linear(dim + 1, width), nn.SiLU()]
        for _ in range(2):
            layers += [nn.Linear(width, width), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.Linear(width, dim))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.body(torch.cat([x, t[:, None]], 1))


# name: (batch, numbers of a state, width, steps, turns)
SIZES = {"small": (16, 16, 64, 20, 15), "large": (128, 64, 768, 20, 7)}


def candidates(
    size: str, steps: int, only: str = ""
) -> tuple[dict[str, Callable[[], Any]], dict[str, float]]:
    """Value and gradient at x and all weights of Euler's method from t = 1 to 0; seconds of what has to be compiled."""
    batch, dim, width, *_ = SIZES[size]
    torch.manual_seed(0)
    network, x = Perceptron(dim, width), torch.randn(batch, dim)
    denoiser, plan = (
        Denoiser(network, RectifiedFlow(), FLOW),
        FlowEuler().plan(RectifiedFlow(), UniformT(steps)),
    )
    weights = list(network.parameters())

    def run(strategy: Gradient) -> Callable[[], list[Tensor]]:
        def both() -> list[Tensor]:
            start = x.clone().requires_grad_()
            out = sample(denoiser, plan, start, gradient=strategy)
            return list(torch.autograd.grad(out.square().sum(), [start, *weights]))

        return both

    library: Any = importlib.import_module("torchdiffeq")

    class Field(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, t: Tensor, x: Tensor) -> Tensor:
            return network(x, t.expand(len(x)))

    field, ends = Field(), torch.tensor([1.0, 0.0])
    options = {"step_size": 1 / steps * (1 + 1e-6)}

    def outside(solver: Any) -> Callable[[], list[Tensor]]:
        def both() -> list[Tensor]:
            start = x.clone().requires_grad_()
            out = solver(field, start, ends, method="euler", options=options)[-1]
            return list(torch.autograd.grad(out.square().sum(), [start, *weights]))

        return both

    made: dict[str, Callable[[], Any]] = {
        "pullback, Checkpoint": run(Checkpoint()),
        "pullback, Direct": run(Direct()),
        "pullback, Checkpoint(recursive)": run(Checkpoint(recursive=True)),
        "torchdiffeq, odeint": outside(library.odeint),
        "torchdiffeq, odeint_adjoint": outside(library.odeint_adjoint),
        "torchdiffeq behind sample, Backsolve": run(TorchDiffEq("euler", gradient=Backsolve())),
    }
    if not JAX or only in made:
        return made, {}
    import peers_diffrax

    more, took = peers_diffrax.runs(network, x, steps, only.removeprefix("diffrax, "))
    return made | more, took


def times(quick: bool) -> dict[str, Any]:
    """Processor seconds of one core, by turns, beside `Checkpoint`'s; how far gradients are from `Direct`'s."""
    found = {}
    for size, (batch, dim, width, steps, turns) in SIZES.items():
        if quick and size != "small":
            continue
        made, took = candidates(size, steps)
        rows = beside(by_turns(made, 2 if quick else turns), "pullback, Checkpoint")
        want = torch.cat([g.flatten() for g in made["pullback, Direct"]()])
        for name, row in rows.items():
            grads = made[name]()
            if name.startswith("diffrax"):
                import peers_diffrax

                grads = peers_diffrax.in_torch(grads)
            got = torch.cat([g.flatten() for g in grads])
            row["off"] = float((got - want).norm() / want.norm())
            row |= {"compile_seconds": took[name]} if name in took else {}
            if size == "large":
                row["peak_MiB"] = {
                    str(n): in_its_own_process(__file__, name, n)["peak_MiB"] for n in (steps, 10 * steps)
                }
                if name == "pullback, Checkpoint":
                    row["peak_with_holes_MiB"] = in_its_own_process(__file__, name, 10 * steps, "holes")[
                        "peak_MiB"
                    ]
                print(".", end="", flush=True)
        found[size] = {"batch": batch, "state": dim, "width": width, "steps": steps, "rows": rows}
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    warm = candidates("large", 2, sys.argv[1])[0][sys.argv[1]]
    for _ in range(5):  # until the allocators have settled
        warm()
    last = candidates("large", int(sys.argv[2]), sys.argv[1])[0][sys.argv[1]]
    if sys.argv[1].startswith("diffrax"):
        last()  # compiles it
    peak = peak_bytes(last, None if sys.argv[3:] else LARGE)
    print(json.dumps({"peak_MiB": peak / 2**20}))
