"""The SDE part of benchmarks/peers.py: gradients along Brownian paths beside torchsde's.

The reverse SDE of Gaussian data N(m, s^2) is linear with additive noise: x_end = alpha_end m + Phi (x - alpha m) + ...,

    Phi = (v_end / v) (alpha / alpha_end),   v(t) = alpha^2 s^2 + sigma^2,

so the gradient of sum(w x_end) at x is Phi w and at m it is (alpha_end - Phi alpha) sum w, on every path.
"""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from measuring import beside, by_turns
from peers_ode import Perceptron
from torch import Tensor, nn

from pullback.adjoint import Checkpoint, Direct, Gradient, sample
from pullback.solvers import (
    DATA,
    DDIM,
    NOISE,
    VP,
    Addressed,
    Denoiser,
    EulerMaruyama,
    Method,
    SDEDPMSolverPP,
    UniformLambda,
    UniformT,
)

PROCESS, START, END, STD = VP(), 0.6, 1e-2, 0.6
BUDGETS = (25, 50, 100, 200)
OURS: list[Method] = [EulerMaruyama(), DDIM(1.0), SDEDPMSolverPP(2)]
THEIRS = (  # method, its adjoint's, calls a step, Ito or Stratonovich (one law here: the noise is additive)
    ("euler", None, 1, "ito"),
    ("euler", "euler", 1, "ito"),
    ("srk", None, 10, "ito"),
    ("midpoint", "midpoint", 2, "stratonovich"),
    ("reversible_heun", "adjoint_reversible_heun", 1, "stratonovich"),
)


class Data(nn.Module):
    """The exact posterior mean of N(m, STD^2), with m a weight; counts its calls."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.linspace(-1, 1, dim, dtype=torch.float64))
        self.calls = 0

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        alpha, sigma = PROCESS.alpha(t[0]).to(x), PROCESS.sigma(t[0]).to(x)
        gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
        return self.mean + gain * (x - alpha * self.mean)


def truth(w: Tensor) -> tuple[Tensor, Tensor]:
    first, last = (float(PROCESS.alpha(t)) for t in (START, END))
    v_first, v_last = (a**2 * STD**2 + float(PROCESS.sigma(t)) ** 2 for a, t in ((first, START), (last, END)))
    phi = v_last / v_first * first / last
    return phi * w, (last - phi * first) * w.sum(0)


class Reverse(nn.Module):
    """The reverse SDE of a network for torchsde, whose time rises: s = -t, state (B, d).

    dx = (g^2 score - f x) ds + g dW, score = (alpha D - x) / sigma^2 of a data prediction D, -eps / sigma of noise.
    """

    noise_type = "diagonal"

    def __init__(self, network: nn.Module, kind: str, noise: bool = False) -> None:
        super().__init__()
        self.network, self.sde_type, self.noise = network, kind, noise
        self.low, self.high = PROCESS.beta_min, PROCESS.beta_max

    def f(self, s: Tensor, x: Tensor) -> Tensor:
        t = -s.to(torch.float64)
        alpha, sigma = PROCESS.alpha(t).to(x), PROCESS.sigma(t).to(x)
        beta = (self.low + (self.high - self.low) * t).to(x)
        found = self.network(x, t.to(x).expand(len(x)))
        score = -found / sigma if self.noise else (alpha * found - x) / sigma**2
        return beta * (score + x / 2)

    def g(self, s: Tensor, x: Tensor) -> Tensor:
        return (self.low - (self.high - self.low) * s).sqrt().to(x).expand_as(x)


def solver(adjoint: str | None) -> Callable[..., Any]:
    library: Any = importlib.import_module("torchsde")
    if adjoint is None:
        return library.sdeint
    return lambda *a, **k: library.sdeint_adjoint(*a, adjoint_method=adjoint, **k)


def path(x: Tensor, seed: int) -> Any:
    library: Any = importlib.import_module("torchsde")
    return library.BrownianInterval(
        -START, -END, size=x.shape, dtype=x.dtype, entropy=seed, levy_area_approximation="space-time"
    )


def errors(network: Data, x: Tensor, out: Tensor, w: Tensor) -> dict[str, float]:
    found = torch.autograd.grad((w * out).sum(), [x, network.mean])
    exact = truth(w)
    return {
        f"{name}_error": float((a - b).norm() / b.norm())
        for name, a, b in zip(("x", "weights"), found, exact, strict=True)
    }


def accuracy(budgets: tuple[int, ...], batch: int = 32, dim: int = 16) -> list[dict[str, Any]]:
    """Errors against the closed form at equal calls, float64."""
    g = torch.Generator().manual_seed(0)
    start, w = (torch.randn(batch, dim, generator=g, dtype=torch.float64) for _ in range(2))
    rows = []
    for budget in budgets:
        for method in OURS:
            # a grid for each: Euler-Maruyama is a rule in t, the exponential ones are at home in lambda
            grid = UniformT if isinstance(method, EulerMaruyama) else UniformLambda
            plan = method.plan(PROCESS, grid(budget, start=START, end=END))
            network, x = Data(dim), start.clone().requires_grad_()
            out = sample(Denoiser(network, PROCESS, DATA), plan, x, noise=Addressed(0), gradient=Checkpoint())
            rows.append(
                {"side": "pullback", "method": plan.name, "gradient": "Checkpoint", "calls": network.calls,
                 **errors(network, x, out, w), "budget": budget}
            )  # fmt: skip
        for method, adjoint, stages, kind in THEIRS:
            network, x = Data(dim), start.clone().requires_grad_()
            dt = (START - END) / (budget // stages)
            out = solver(adjoint)(
                Reverse(network, kind), x, torch.tensor([-START, -END], dtype=torch.float64), bm=path(x, 0),
                dt=dt * (1 + 1e-12), method=method,
            )[-1]  # fmt: skip
            rows.append(
                {"side": "torchsde", "method": method, "gradient": "sdeint_adjoint" if adjoint else "sdeint",
                 "calls": network.calls, **errors(network, x, out, w), "budget": budget}
            )  # fmt: skip
            print(".", end="", flush=True)
    return rows


SIZES = {"small": (16, 16, 64, 50, 9), "large": (128, 64, 768, 20, 5)}


def candidates(size: str, steps: int) -> dict[str, Callable[[], Any]]:
    """Value and gradient at x and all weights of Euler-Maruyama in t, float32; the noise is each side's own."""
    batch, dim, width, *_ = SIZES[size]
    torch.manual_seed(0)
    network, x = Perceptron(dim, width), torch.randn(batch, dim)
    weights, model = list(network.parameters()), Denoiser(network, PROCESS, NOISE)
    plan = EulerMaruyama().plan(PROCESS, UniformT(steps, start=START, end=END))

    def ours(strategy: Gradient) -> Callable[[], Any]:
        def both() -> Any:
            start = x.clone().requires_grad_()
            out = sample(model, plan, start, noise=Addressed(0), gradient=strategy)
            return torch.autograd.grad(out.square().sum(), [start, *weights])

        return both

    def theirs(method: str, adjoint: str | None, kind: str) -> Callable[[], Any]:
        sde, ends = Reverse(network, kind, noise=True), torch.tensor([-START, -END])

        def both() -> Any:
            start = x.clone().requires_grad_()
            dt = (START - END) / steps * (1 + 1e-6)
            out = solver(adjoint)(sde, start, ends, bm=path(start, 0), dt=dt, method=method)[-1]
            return torch.autograd.grad(out.square().sum(), [start, *weights])

        return both

    return {
        "pullback, Checkpoint": ours(Checkpoint()),
        "pullback, Direct": ours(Direct()),
        "torchsde, sdeint euler": theirs("euler", None, "ito"),
        "torchsde, sdeint_adjoint euler": theirs("euler", "euler", "ito"),
        "torchsde, sdeint_adjoint reversible_heun": theirs(
            "reversible_heun", "adjoint_reversible_heun", "stratonovich"
        ),
    }


def measured(quick: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"std": STD, "rows": accuracy(BUDGETS[:1] if quick else BUDGETS), "times": {}}
    for size, (batch, dim, width, steps, turns) in SIZES.items():
        if not (quick and size != "small"):
            taken = by_turns(candidates(size, steps), 2 if quick else turns)
            rows = beside(taken, "pullback, Checkpoint")
            found["times"][size] = {
                "batch": batch,
                "state": dim,
                "width": width,
                "steps": steps,
                "rows": rows,
            }
    return found
