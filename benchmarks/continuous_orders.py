"""Orders of continuous adjoints, and their gradient at the strength of RF-Inversion's controller.

    python benchmarks/continuous_orders.py      writes benchmarks/results/continuous_orders.json

orders: relative error (of the batch) of the gradient at the start of a loss that is linear in the sample, from
the flow's own, at 60 and 120 steps: second plans of `Continuous` on the states of a run of 2M and of DEIS(4), and
`AdjointDEIS` at 80 and 320 steps. Five Gaussians of deviation 0.6 in 6 dimensions, uniform in lambda; truth:
`Checkpoint` on 1000 steps of UniPC(3).
controller: relative error of the gradient at eta while it acts (a quarter of the run), with 28, 56 and 112 Euler steps
of `rf_regenerate` on a mixture's flow; truth: `FlowMidpoint` on 16 times as many steps. "last row" is the same at an
eta of 0 in the last step before the data.
"""

import json
import math
import pathlib
from typing import Any

import torch
from continuous import BATCH, DIM, Exact
from torch import Tensor

from pullback.adjoint import AdjointDEIS, Checkpoint, Continuous, Gradient, States, sample
from pullback.guidance import edit
from pullback.solvers import (
    DATA,
    DDIM,
    DEIS,
    EDMPEC,
    FLOW,
    VP,
    Denoiser,
    DPMSolverPP,
    FlowEuler,
    FlowHeun,
    FlowMidpoint,
    Method,
    Mixture,
    RectifiedFlow,
    UniformLambda,
    UniformT,
    UniPC,
    convert,
)

OUT = pathlib.Path(__file__).parent / "results" / "continuous_orders.json"
RUNS = {"DPMSolverPP(2)": DPMSolverPP(2), "DEIS(4)": DEIS(4)}
SECOND = {
    "DDIM()": DDIM(), "EDMPEC()": EDMPEC(), "DPMSolverPP(2)": DPMSolverPP(2), "FlowHeun()": FlowHeun(),
    "DPMSolverPP(3)": DPMSolverPP(3), "DEIS(3)": DEIS(3), "UniPC(2)": UniPC(2), "UniPC(3)": UniPC(3),
}  # fmt: skip


def mixture() -> Denoiser:
    means = torch.randn(5, DIM, generator=torch.Generator().manual_seed(0))
    law = Mixture.isotropic(torch.full((5,), 0.2), means, torch.full((5,), 0.6))
    return Denoiser(Exact(law, DATA), VP(), DATA)


def gradient(method: Method, n: int, strategy: Gradient) -> Tensor:
    g = torch.Generator().manual_seed(7)
    x = torch.randn(BATCH, DIM, generator=g).requires_grad_()
    weight, shift = torch.randn(BATCH, DIM, generator=g), torch.zeros(BATCH, DIM)
    plan = method.plan(VP(), UniformLambda(n, start=1.0, end=0.01))
    out = sample(mixture(), plan, x, cond=shift, gradient=strategy)
    return torch.autograd.grad((out * weight).sum(), x)[0]


def orders() -> dict[str, Any]:
    truth = gradient(UniPC(3), 1000, Checkpoint())

    def slope(method: Method, strategy: Gradient, coarse: int, fine: int) -> dict[str, float]:
        errors = [
            float((gradient(method, n, strategy) - truth).norm() / truth.norm()) for n in (coarse, fine)
        ]
        return {
            str(coarse): errors[0],
            str(fine): errors[1],
            "slope": math.log(errors[0] / errors[1]) / math.log(fine / coarse),
        }

    found: dict[str, Any] = {}
    for name, second in SECOND.items():
        for states in (States.INTEGRATED, States.RECORDED):
            found[f"Continuous({name}), {states.name}"] = {
                run: slope(method, Continuous(None, second, states), 60, 120) for run, method in RUNS.items()
            }
    for order in (1, 2, 3, 4):
        found[f"AdjointDEIS({order})"] = slope(DEIS(4), AdjointDEIS(order), 80, 320)
    return found


def controller() -> dict[str, Any]:
    law = Mixture.isotropic(
        torch.ones(2) / 2, torch.tensor([[1.0, 0.5], [-1.0, 0.0]]), torch.tensor([0.3, 0.4])
    )
    process = RectifiedFlow()
    exact, g = law.denoiser(process), torch.Generator().manual_seed(0)

    def velocity(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        t = t.clamp(1e-9, 1 - 1e-9)
        return convert(exact(x, t), x, exact.prediction, FLOW, process, t)

    model = Denoiser(velocity, process, FLOW)
    image, latent = torch.tensor([[1.0, 0.3], [-0.8, 0.9], [0.2, -1.0]]), torch.randn(3, 2, generator=g)

    def at_eta(n: int, strategy: Gradient, method: Method = FlowEuler(), finer: int = 1) -> Tensor:
        eta = torch.zeros(n)
        eta[: n // 4] = 0.9
        eta.requires_grad_()
        rows, grid = eta.repeat_interleave(finer, 0), UniformT(n * finer)
        out = edit.rf_regenerate(
            model, latent, image, cond=None, eta=rows, grid=grid, method=method, gradient=strategy
        )
        return torch.autograd.grad((out * torch.tensor([1.0, -0.6])).sum(), eta)[0]

    found: dict[str, Any] = {}
    for name, strategy in (
        ("Continuous(FlowHeun())", Continuous(method=FlowHeun())),
        ("Checkpoint()", Checkpoint()),
    ):
        found[name] = {}
        for n in (28, 56, 112):
            truth, got = at_eta(n, Checkpoint(), FlowMidpoint(), 16), at_eta(n, strategy)
            acting = slice(0, n // 4)
            found[name][str(n)] = {
                "acting": float((got[acting] - truth[acting]).norm() / truth[acting].norm()),
                "last row": float((got[-1] - truth[-1]).abs() / truth[-1].abs()),
            }
    return found


def main() -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    facts = {"torch": torch.__version__, "orders": orders(), "controller": controller()}
    OUT.write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
