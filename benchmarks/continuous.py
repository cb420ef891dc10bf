"""When the gradient of a second plan is closer to the flow's than the run's own exact gradient, and when it is not.

    python benchmarks/continuous.py      writes benchmarks/results/continuous.json

The same run under networks of different kinds: the exact posterior mean of a mixture, asked as a data or as a noise
prediction, and random multilayer perceptrons taken for a noise, data or velocity prediction, smooth
or quick in time, the grid ended near the data or further from it. Truth: `Checkpoint` on 800 steps of DPM-Solver++(3).
Figures: relative error (median over samples) of the gradient at the starting noise and at a shift of the network's
output, for `Checkpoint` on DPM-Solver++(2M) and for `Continuous` with each base and kind of states.
"""

import argparse
import json
import pathlib

import torch
from torch import Tensor, nn

from pullback.adjoint import Checkpoint, Continuous, Gradient, States, sample
from pullback.solvers import (
    DATA,
    DEIS,
    EDMPEC,
    NOISE,
    VP,
    Denoiser,
    DPMSolverPP,
    Method,
    Mixture,
    Prediction,
    UniformLambda,
    V,
)

HERE, DIM, BATCH = pathlib.Path(__file__).parent, 6, 12
STEPS = (20, 80)


class Perceptron(nn.Module):
    """Two hidden layers, weights as torch draws them but `gain` times larger; cos(rate t), sin(rate t) for the time."""

    def __init__(self, rate: float, gain: float, seed: int) -> None:
        super().__init__()
        self.rate = rate
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(
                nn.Linear(DIM + 2, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, DIM)
            )
        with torch.no_grad():
            for weight in self.body.parameters():
                weight *= gain

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        when = torch.stack([(self.rate * t).cos(), (self.rate * t).sin()], 1).to(x)
        return self.body(torch.cat([x, when], 1)) + cond


class Exact(nn.Module):
    """A mixture's own prediction."""

    def __init__(self, law: Mixture, prediction: Prediction) -> None:
        super().__init__()
        self.law, self.prediction = law, prediction

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        alpha, sigma = VP().alpha(t), VP().sigma(t)
        how = self.law.denoise if self.prediction is DATA else self.law.noise
        return how(x, alpha, sigma) + cond


def networks() -> dict[str, tuple[nn.Module, Prediction]]:
    g = torch.Generator().manual_seed(0)
    means = torch.randn(5, DIM, generator=g)
    law = Mixture.isotropic(torch.full((5,), 0.2), means, torch.full((5,), 0.3))
    found: dict[str, tuple[nn.Module, Prediction]] = {
        f"mixture as {name}": (Exact(law, kind), kind) for name, kind in (("DATA", DATA), ("NOISE", NOISE))
    }
    for name, kind in (("NOISE", NOISE), ("DATA", DATA), ("V", V)):
        for rate, gain in ((1.0, 1.0), (1.0, 2.0), (20.0, 2.0)):
            found[f"perceptron as {name}, rate {rate:g}, gain {gain:g}"] = (Perceptron(rate, gain, 1), kind)
    return found


STRATEGIES: dict[str, Gradient] = {
    "Checkpoint": Checkpoint(),
    **{
        f"Continuous({base}, {states.name})": Continuous(method=method, states=states)
        for base, method in (("EDMPEC", EDMPEC()), ("2M", DPMSolverPP(2)), ("DEIS", DEIS(2)))
        for states in (States.INTEGRATED, States.RECORDED)
    },
}


def gradients(
    model: Denoiser, method: Method, n: int, end: float, strategy: Gradient
) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(7)
    x = torch.randn(BATCH, DIM, generator=g).requires_grad_()
    cond = torch.zeros(BATCH, DIM).requires_grad_()
    target = torch.randn(BATCH, DIM, generator=g)
    plan = method.plan(VP(), UniformLambda(n, start=1.0, end=end))
    out = sample(model, plan, x, cond=cond, gradient=strategy)
    at_x, at_cond = torch.autograd.grad((out - target).square().sum(), [x, cond])
    return at_x, at_cond


def error(found: tuple[Tensor, Tensor], truth: tuple[Tensor, Tensor]) -> list[float]:
    """At x and at cond."""
    ratios = [((a - b).norm(dim=1) / b.norm(dim=1)).median() for a, b in zip(found, truth, strict=True)]
    return [float(f"{float(ratio):.3g}") for ratio in ratios]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="*", default=STEPS)
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results" / "continuous.json")
    chosen = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    rows = []
    for name, (network, kind) in networks().items():
        model = Denoiser(network.requires_grad_(False), VP(), kind)
        for end in (1e-3, 0.05):
            truth = gradients(model, DPMSolverPP(3), 800, end, Checkpoint())
            other = error(gradients(model, DPMSolverPP(2), 800, end, Checkpoint()), truth)
            for n in chosen.steps:
                errors = {
                    label: error(gradients(model, DPMSolverPP(2), n, end, how), truth)
                    for label, how in STRATEGIES.items()
                }
                errors["Checkpoint, DEIS run"] = error(gradients(model, DEIS(2), n, end, Checkpoint()), truth)
                errors["Continuous(DEIS, RECORDED), DEIS run"] = error(
                    gradients(model, DEIS(2), n, end, STRATEGIES["Continuous(DEIS, RECORDED)"]), truth
                )
                rows.append({"network": name, "end": end, "N": n, "truth's own": other, "errors": errors})
                ratios = {
                    k: "/".join(f"{a / b:.2f}" for a, b in zip(v, errors["Checkpoint"], strict=True))
                    for k, v in errors.items()
                }
                exact = errors["Checkpoint"][0]
                print(
                    f"{name:36s} end {end:<6g} N {n:3d} exact {exact:.1e} (truth {other[0]:.0e})",
                    ratios,
                    flush=True,
                )
    chosen.out.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


if __name__ == "__main__":
    main()
