"""Deterministic samplers as plain loops on the mixture of Test A, written from the papers' own equations."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from problems import MIXTURE, PROCESS, warped
from torch import Tensor

from pullback.solvers import EDM, Process
from pullback.solvers.methods.unipc import BVariant

GRID = PROCESS.time(warped(8))
START = torch.randn(8, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def eps(process: Process) -> Callable[[Tensor, float], Tensor]:
    """E of the mixture."""
    model = MIXTURE.denoiser(process)

    def call(x: Tensor, t: float) -> Tensor:
        at = torch.tensor(t, dtype=torch.float64)
        return (x - process.alpha(at) * model(x, at.expand(len(x)))) / process.sigma(at)

    return call


def scalars(process: Process, t: float) -> tuple[float, float, float]:
    """alpha, sigma, lambda."""
    at = torch.tensor(t, dtype=torch.float64)
    return tuple(float(f(at)) for f in (process.alpha, process.sigma, process.lam))  # type: ignore[return-value]


def dpm_solver_step(
    E, process: Process, x: Tensor, s: float, t: float, order: int, r1: float, r2: float
) -> Tensor:
    """Lu et al. 2022, algorithms 1 and 2, and DPM-Solver-1: stages in lambda, e^h - 1 as they print it."""
    (a_s, _, l_s), (a_t, s_t, l_t) = scalars(process, s), scalars(process, t)
    h, e0 = l_t - l_s, E(x, s)
    level = math.exp(h) - 1
    if order == 1:
        return a_t / a_s * x - s_t * level * e0

    def stage(r: float) -> tuple[float, float, float]:
        u = float(process.time(l_s + r * h))
        return u, *scalars(process, u)[:2]

    u1, a1, s1 = stage(r1)
    e1 = E(a1 / a_s * x - s1 * (math.exp(r1 * h) - 1) * e0, u1)
    if order == 2:
        return a_t / a_s * x - s_t * level * e0 - s_t / (2 * r1) * level * (e1 - e0)
    u2, a2, s2 = stage(r2)
    bend = (math.exp(r2 * h) - 1) / (r2 * h) - 1
    x2 = a2 / a_s * x - s2 * (math.exp(r2 * h) - 1) * e0 - s2 * r2 / r1 * bend * (e1 - e0)
    return a_t / a_s * x - s_t * level * e0 - s_t / r2 * (level / h - 1) * (E(x2, u2) - e0)


def dpm_solver(orders: Sequence[int], grid: Tensor, r1: float | None = None, r2: float = 2 / 3) -> Tensor:
    x, E = START, eps(PROCESS)
    for order, s, t in zip(orders, grid[:-1].tolist(), grid[1:].tolist(), strict=True):
        x = dpm_solver_step(E, PROCESS, x, s, t, order, r1 or (1 / 2 if order == 2 else 1 / 3), r2)
    return x


def to(process: Process, x: Tensor, e: Tensor, s: float, t: float) -> Tensor:
    """PNDM's transfer part, Liu et al. 2022, eq. 11, in products of cumulated alphas (here alpha^2)."""
    a, b = (scalars(process, u)[0] ** 2 for u in (s, t))
    root = math.sqrt((1 - b) * a) + math.sqrt((1 - a) * b)
    return math.sqrt(b / a) * x - (b - a) / (math.sqrt(a) * root) * e


def pndm(grid: Tensor, start: str, nodes: int = 4) -> Tensor:
    """F-PNDM ("kutta"), latent diffusion's PLMS ("heun"), iPNDM (""), from their own equations."""
    x, E, t, past = START, eps(PROCESS), grid.tolist(), []
    adams = {
        1: [1.0],
        2: [3 / 2, -1 / 2],
        3: [23 / 12, -16 / 12, 5 / 12],
        4: [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    }
    for i in range(len(t) - 1):
        past = [E(x, t[i]), *past][:nodes]
        if start == "kutta" and i < 3:
            half = (t[i] + t[i + 1]) / 2
            e2 = E(to(PROCESS, x, past[0], t[i], half), half)
            e3 = E(to(PROCESS, x, e2, t[i], half), half)
            e = (past[0] + 2 * e2 + 2 * e3 + E(to(PROCESS, x, e3, t[i], t[i + 1]), t[i + 1])) / 6
        elif start == "heun" and i == 0:
            e = (past[0] + E(to(PROCESS, x, past[0], t[i], t[i + 1]), t[i + 1])) / 2
        else:
            e = sum((w * p for w, p in zip(adams[len(past)], past, strict=True)), torch.zeros_like(x))
        x = to(PROCESS, x, e, t[i], t[i + 1])
    return x


BLEND = {  # weights of v, v_before, ... over beta, in beta
    1: lambda b: [b],
    2: lambda b: [(2 + b) / 2, -(2 - b) / 2],
    3: lambda b: [(18 + 5 * b) / 12, -(24 - 8 * b) / 12, (6 - b) / 12],
    4: lambda b: [(46 + 9 * b) / 24, -(78 - 19 * b) / 24, (42 - 5 * b) / 24, -(10 - b) / 24],
}


def heavy_ball(rho: list[float], r: float, opening: Sequence[Tensor], own_start: bool) -> Tensor:
    """Published GHVB on dy/drho = E, equal steps: v_n = (1 - beta) v_{n-1} + beta E_n, a blend of the last k v.

    The states of the first k nodes are given. v_0 is E_0 as published, or with `own_start` what makes the first
    difference of v that of E.
    """
    k, E = math.ceil(r), eps(EDM())
    beta, width, y = r - (k - 1), rho[1] - rho[0], opening[-1]
    f = [E(x, t) for x, t in zip(opening, rho, strict=False)]

    def averages(v: Tensor) -> list[Tensor]:
        out = [v]
        for e in f[1:]:
            out.append((1 - beta) * out[-1] + beta * e)
        return out

    def difference(v: list[Tensor]) -> Tensor:
        return sum(((-1) ** j * math.comb(k - 1, j) * v[k - 1 - j] for j in range(k)), torch.zeros_like(y))

    zero = averages(torch.zeros_like(f[0]))
    v = averages((difference(f) - difference(zero)) / (-beta) ** (k - 1) if own_start else f[0])
    for n in range(k - 1, len(rho) - 1):
        y = y + width * sum(w / beta * v[-1 - j] for j, w in enumerate(BLEND[k](beta)))
        v.append((1 - beta) * v[-1] + beta * E(y, rho[n + 1]))
    return y


def unipc(p: int, variant: BVariant, grid: Tensor) -> Tensor:
    """Zhao et al. 2023, algorithms 1 and 2: the systems in R and b solved as they print them, with B(h)."""
    model, t = MIXTURE.denoiser(PROCESS), grid.tolist()

    def data(x: Tensor, u: float) -> Tensor:
        return model(x, torch.tensor(u, dtype=torch.float64).expand(len(x)))

    x, past, last = START, [data(START, t[0])], len(t) - 2
    for i, (s, u) in enumerate(zip(t[:-1], t[1:], strict=True)):
        (_, s_s, l_s), (a_t, s_t, l_t) = scalars(PROCESS, s), scalars(PROCESS, u)
        h, m = l_t - l_s, min(p, len(past))
        r = [(scalars(PROCESS, t[i - k])[2] - l_s) / h for k in range(1, m)]
        level = -h if variant is BVariant.BH1 else math.expm1(-h)

        def slopes(nodes: list[float], h=h, level=level) -> list[float]:
            phi, b = math.expm1(-h) / -h, []
            for n in range(1, len(nodes) + 1):
                phi = (phi - 1 / math.factorial(n)) / -h
                b.append(math.factorial(n) * phi * -h / level)
            if len(nodes) == 1 and variant is not BVariant.EXACT:
                return [0.5]
            return np.linalg.solve(np.vander(nodes, increasing=True).T, b).tolist() if nodes else []

        base = s_t / s_s * x - a_t * math.expm1(-h) * past[0]
        differences = [(d - past[0]) / node for d, node in zip(past[1:m], r, strict=True)]
        x = base - a_t * level * sum(a * d for a, d in zip(slopes(r), differences, strict=True))
        if i < last:
            fresh = data(x, u)
            a = slopes([*r, 1.0])
            x = base - a_t * level * sum(
                w * d for w, d in zip(a, [*differences, fresh - past[0]], strict=True)
            )
            past = [fresh, *past]
    return x
