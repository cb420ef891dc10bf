"""Error of gradients against what they cost: every strategy, and the adjoints of torchdiffeq and torchsde, in one run.

    python benchmarks/gradients.py      writes benchmarks/results/gradients.json and gradients.png

Problem: 8 Gaussians of deviation 0.3 in 16 dimensions, means N(0, spread^2), VP, t from 1 to 1e-3, loss =
squared distance to the first mean. Truth: `Checkpoint` on 1500 steps of DPM-Solver++(3). Figures: median over
the draws of the relative error of the gradient at the starting noise, and the relative error of the gradient
at a shift that conditioning adds to the data prediction, which sums over the whole run as a parameter's does.
Cost in forwards F of the network: calls + 2 VJPs. "torchdiffeq ..., t grid" and "lambda grid" restart
`odeint_adjoint` from recorded states at the nodes, one step between them; "ends only" and "torchdiffeq
dopri5" re-solve the state from the sample, their O(1) memory. For dopri5 N is -log10 tolerance.
"""

import json
import math
import pathlib
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from pullback.adjoint import (
    AdjointDEIS,
    Backsolve,
    Checkpoint,
    Continuous,
    Gradient,
    Reversible,
    States,
    TorchDiffEq,
    TorchSDE,
    sample,
)
from pullback.solvers import (
    DATA,
    DDIM,
    DDPM,
    OBELM,
    VP,
    Denoiser,
    DPMSolverPP,
    EulerMaruyama,
    GivenNoise,
    Karras,
    Method,
    Mixture,
    ReversibleHeun,
    UniformLambda,
    UniformT,
)

HERE, DIM, DRAWS = pathlib.Path(__file__).parent, 16, 64
STEPS, START, END = (5, 10, 20, 50, 100), 1.0, 1e-3
GRIDS: dict[str, Any] = {"lambda": UniformLambda, "t": UniformT, "Karras": Karras}
RECORDED = Continuous(states=States.RECORDED)


class Counted(nn.Module):
    """The exact data prediction of a mixture, shifted by the conditioning; counts its calls and the VJPs
    through them.
    """

    def __init__(self, mixture: Mixture) -> None:
        super().__init__()
        self.exact = mixture.denoiser(VP())
        self.calls = self.vjps = 0

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        self.calls += 1
        out = self.exact(x, t) + cond
        if out.requires_grad:
            out.register_hook(self._count)
        return out

    def _count(self, _: Tensor) -> None:
        self.vjps += 1


class Problem:
    """One mixture, its draws and their true gradients."""

    def __init__(self, spread: float) -> None:
        g = torch.Generator().manual_seed(0)
        means = torch.randn(8, DIM, generator=g) * spread
        self.network, self.target = (
            Counted(Mixture.isotropic(torch.full((8,), 0.125), means, torch.full((8,), 0.3))),
            means[0],
        )
        self.model, self.x = Denoiser(self.network, VP(), DATA), torch.randn(DRAWS, DIM, generator=g)
        self.truth = self.gradients(
            DPMSolverPP(3, exact=True, starter=True).plan(VP(), self.grid(1500)), Checkpoint()
        )[0]

    def grid(self, n: int, kind: str = "lambda") -> Any:
        return GRIDS[kind](n, start=START, end=END)

    def gradients(self, plan: Any, strategy: Gradient, **kwargs: Any) -> tuple[list[Tensor], dict[str, int]]:
        """Gradients at the noise and the shift, and what they took."""
        x, shift = self.x.clone().requires_grad_(), torch.zeros(DIM, requires_grad=True)
        self.network.calls = self.network.vjps = 0
        out = sample(self.model, plan, x, cond=shift, gradient=strategy, **kwargs)
        forwards, self.network.vjps = self.network.calls, 0
        found = torch.autograd.grad((out - self.target).square().sum(), [x, shift])
        return list(found), {
            "forward_calls": forwards,
            "backward_calls": self.network.calls - forwards,
            "vjps": self.network.vjps,
            "cost_F": self.network.calls + 2 * self.network.vjps,
        }

    def row(
        self,
        name: str,
        n: int,
        plan: Any,
        strategy: Gradient,
        truth: list[Tensor] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        (x, shift), counts = self.gradients(plan, strategy, **kwargs)
        true_x, true_shift = truth or self.truth
        relative = (x - true_x).norm(dim=1) / true_x.norm(dim=1)
        print(".", end="", flush=True)
        return {
            "name": name,
            "N": n,
            "x_error": float(relative.median()),
            "cond_error": float((shift - true_shift).norm() / true_shift.norm()),
            **counts,
        }


def flows(p: Problem) -> list[dict[str, Any]]:
    """Gradients of the probability-flow ODE."""
    ours: list[tuple[str, Method, Callable[[int], Gradient]]] = [
        ("Checkpoint, 2M", DPMSolverPP(2), lambda n: Checkpoint()),
        ("Reversible, ReversibleHeun", ReversibleHeun(), lambda n: Reversible()),
        ("Reversible, OBELM", OBELM(), lambda n: Reversible()),
        ("Continuous, M = N", DPMSolverPP(2), lambda n: Continuous()),
        ("Continuous, M = N/2", DPMSolverPP(2), lambda n: Continuous(n // 2)),
        ("AdjointDEIS(1)", DPMSolverPP(2), lambda n: AdjointDEIS(1)),
        ("AdjointDEIS(2)", DPMSolverPP(2), lambda n: AdjointDEIS(2)),
    ]
    rows = []
    for n in STEPS:
        for kind in GRIDS:
            for name, method, strategy in ours if kind == "lambda" else (ours[0], ours[3]):
                label = name if kind == "lambda" else f"{name}, {kind} grid"
                rows.append(p.row(label, n, method.plan(VP(), p.grid(n, kind)), strategy(n)))
        for method in ("euler", "midpoint", "rk4"):
            for kind in ("t", "lambda"):
                plan = DDIM().plan(VP(), p.grid(n, kind))
                rows.append(
                    p.row(
                        f"torchdiffeq {method}, {kind} grid",
                        n,
                        plan,
                        TorchDiffEq(method, gradient=Backsolve()),
                    )
                )
            ends = TorchDiffEq(
                method, options={"step_size": (START - END) / n * (1 + 1e-9)}, gradient=Backsolve()
            )
            rows.append(p.row(f"torchdiffeq {method}, ends only", n, DDIM().plan(VP(), p.grid(1)), ends))
        plan = DDIM().plan(VP(), p.grid(n))
        rows.append(p.row("TorchDiffEq dopri5 1e-5, Continuous", n, plan, TorchDiffEq(gradient=RECORDED)))
    for digits in (2, 3, 4, 5, 6):
        tolerance = 10.0**-digits
        strategy = TorchDiffEq(rtol=tolerance, atol=tolerance, gradient=Backsolve())
        rows.append(p.row("torchdiffeq dopri5", digits, DDIM().plan(VP(), p.grid(1)), strategy))
    return rows


def paths(p: Problem) -> list[dict[str, Any]]:
    """Gradients of the reverse SDE along one Brownian path; truth: Euler-Maruyama on 1600 steps of that path,
    exactly.
    """
    whole, rows = 1600, []
    fine = torch.randn(whole, DRAWS, DIM, generator=torch.Generator().manual_seed(1))
    truth, _ = p.gradients(
        EulerMaruyama().plan(VP(), p.grid(whole, "t")), Checkpoint(), noise=GivenNoise(fine)
    )
    for n in (25, 50, 100, 200):
        part = whole // n
        coarse = fine.reshape(n, part, DRAWS, DIM).sum(1) / math.sqrt(part)
        plan = DDPM().plan(VP(), p.grid(n, "t"))
        second = Continuous(method=DDIM(1.0), states=States.RECORDED)
        rows.append(
            p.row(
                "Checkpoint, EulerMaruyama",
                n,
                EulerMaruyama().plan(VP(), p.grid(n, "t")),
                Checkpoint(),
                truth,
                noise=GivenNoise(coarse),
            )
        )
        for name, inner in (
            ("sdeint_adjoint, euler", Backsolve()),
            ("TorchSDE euler, AdjointDEIS(1)", AdjointDEIS(1)),
            ("TorchSDE euler, Continuous(DDIM(1))", second),
        ):
            rows.append(
                p.row(name, n, plan, TorchSDE("euler", gradient=inner), truth, noise=GivenNoise(coarse))
            )
    return rows


def main() -> None:
    torch.set_num_threads(1)  # tensors are small
    torch.set_default_dtype(torch.float64)
    began, rows = time.perf_counter(), []
    for spread in (0.5, 1.5):
        problem = Problem(spread)
        for kind, measure in (("ode", flows), ("sde", paths)):
            rows += [{"spread": spread, "equation": kind, **row} for row in measure(problem)]
        print(f"spread {spread}: {time.perf_counter() - began:.0f} s", flush=True)
    facts = {
        "machine": platform.processor() or platform.machine(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchdiffeq", "torchsde")},
        "draws": DRAWS,
        "seconds": round(time.perf_counter() - began),
        "rows": rows,
    }
    for row in rows:
        print(
            f"{row['spread']} {row['name']:45s} {row['N']:4d}  x {row['x_error']:9.2e}  cond "
            f"{row['cond_error']:9.2e}  {row['cost_F']:6d} F"
        )
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "gradients.json").write_text(json.dumps(facts, indent=1) + "\n")
    draw(rows)


# ours in colours that survive colour blindness, whole lines and full markers; peers grey, broken lines, open markers
SHOWN = {  # name: (label, colour, marker, line)
    "Checkpoint, 2M": ("Checkpoint", "#0072B2", "o", "-"),
    "Reversible, OBELM": ("Reversible, OBELM", "#009E73", "v", "-"),
    "Continuous, M = N": ("Continuous", "#D55E00", "s", "-"),
    "TorchDiffEq dopri5 1e-5, Continuous": ("Continuous behind dopri5", "#E69F00", "D", "-"),
    "AdjointDEIS(2)": ("AdjointDEIS(2), published", "#CC79A7", "X", "-"),
    "torchdiffeq euler, lambda grid": ("torchdiffeq Euler, states kept", "0.25", "<", "--"),
    "torchdiffeq rk4, lambda grid": ("torchdiffeq RK4, states kept", "0.25", ">", "-."),
    "torchdiffeq rk4, ends only": ("torchdiffeq RK4, re-solved", "0.55", "P", "--"),
    "torchdiffeq dopri5": ("torchdiffeq dopri5, re-solved", "0.55", "^", "-."),
}


def draw(rows: list[dict[str, Any]]) -> None:
    """Error against cost, one panel for the noise and one for the conditioning; geometric means over the two
    problems.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True)
    for axis, key, title in zip(
        axes, ("x_error", "cond_error"), ("starting noise", "conditioning"), strict=True
    ):
        for name, (label, colour, marker, line) in SHOWN.items():
            halves = [
                [r for r in rows if r["name"] == name and r["spread"] == spread] for spread in (0.5, 1.5)
            ]
            points = [
                (math.sqrt(a["cost_F"] * b["cost_F"]), math.sqrt(a[key] * b[key]))
                for a, b in zip(*halves, strict=True)
            ]
            face = colour if line == "-" else "white"
            style = {"marker": marker, "ls": line, "color": colour, "mfc": face, "ms": 6, "lw": 1.8}
            axis.loglog(*zip(*points, strict=True), label=label, **style)
        axis.axhline(1, color="0.85", zorder=0)
        axis.set(xlabel="cost in network calls, a VJP counting 2", title=f"gradient at the {title}")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set(ylabel="relative error against the flow's gradient", ylim=(1e-5, 30))
    axes[1].legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    figure.savefig(HERE / "results" / "gradients.png", dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
