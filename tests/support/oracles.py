"""Chains with known answers: linear-Gaussian recursions, dynamic programming on a grid, and small policies to train."""

from typing import Any

import torch
from torch import Tensor, nn

from pullback.guidance import Batch, Policy
from pullback.solvers import NOISE, Addressed, Denoiser, GivenNoise, Mixture, Plan, Process, Transitions
from pullback.solvers.loop import predict
from pullback.solvers.program import prepare

# one dimension on a grid
# ---------------------------------------------------------------------------------------------


def kernels(plan: Plan, model: Any, grid: Tensor) -> list[Tensor]:
    """P_k[i, j]: the chance of grid point j after step k from grid point i. Steps without noise share between
    two points.
    """
    x, found = grid[:, None], Transitions(plan)
    program, width = prepare(plan, model, x), float(grid[1] - grid[0])
    out = []
    for k in range(plan.steps):
        m = found.mean(
            program, lambda call, state: predict(model, call, state, None), [x] * (k + 1), k
        ).detach()
        s = float(found.stds[k])  # type: ignore[arg-type]
        if s < width:
            place = ((m[:, 0] - grid[0]) / width).clamp(0, len(grid) - 1.000001)
            low = place.floor().long()
            p = torch.zeros(len(grid), len(grid)).scatter(1, low[:, None], (1 - place + low)[:, None])
            p = p.scatter_add(1, low[:, None] + 1, (place - low)[:, None])
        else:
            p = (-0.5 * ((grid - m) / s) ** 2).softmax(1)
        out.append(p)
    return out


def start(plan: Plan, grid: Tensor, mean: float = 0.0, std: float | None = None) -> Tensor:
    """The law of the starting noise on the grid."""
    sigma = float(plan.process.sigma(plan.times[0])) if std is None else std  # type: ignore[arg-type]
    return (-0.5 * ((grid - mean) / sigma) ** 2).softmax(0)


def pushed(law: Tensor, steps: list[Tensor]) -> Tensor:
    """The law after all steps."""
    for p in steps:
        law = law @ p
    return law


def optimum(steps: list[Tensor], reward: Tensor) -> list[Tensor]:
    """Kernels of the best policy for E[r] - KL: P_k exp(V_{k+1}) / exp(V_k), V_N = r, V_k = log P_k exp(V_{k+1})."""
    value, out = reward, []
    for p in reversed(steps):
        before = (p * torch.exp(value - value.max())).sum(1).log() + value.max()
        out.append(p * torch.exp(value[None] - before[:, None]))
        value = before
    return out[::-1]


def tilt(law: Tensor, reward: Tensor) -> Tensor:
    """law exp(r) / Z."""
    return (law.log() + reward).softmax(0)


def variation(p: Tensor, q: Tensor) -> float:
    """Total variation distance."""
    return float(0.5 * (p - q).abs().sum())


def wasserstein(p: Tensor, q: Tensor, grid: Tensor) -> float:
    """W1 of two laws on the grid."""
    return float((p.cumsum(0) - q.cumsum(0)).abs().sum() * (grid[1] - grid[0]))


def histogram(x: Tensor, grid: Tensor) -> Tensor:
    """The empirical law of x on the grid, by nearest point."""
    width = grid[1] - grid[0]
    index = ((x.flatten() - grid[0]) / width).round().long().clamp(0, len(grid) - 1)
    return torch.bincount(index, minlength=len(grid)) / x.numel()


def gaussian_optimum(plan: Plan, model: Any, grid: Tensor, reward: Tensor) -> list[Tensor]:
    """Kernels of the best policy whose steps are N(m'(x), s_k^2): V_k(x) = max_m' (V_{k+1} * N(0, s^2))(m') -
    (m' - m0)^2/2s^2.
    """
    x, found = grid[:, None], Transitions(plan)
    program = prepare(plan, model, x)
    value, out = reward, []
    for k in reversed(range(plan.steps)):
        m0 = found.mean(
            program, lambda call, state: predict(model, call, state, None), [x] * (k + 1), k
        ).detach()
        s = float(found.stds[k])  # type: ignore[arg-type]
        smooth = (-0.5 * ((grid - x) / s) ** 2).softmax(1) @ value  # of candidate means on the grid
        gain = smooth[None] - 0.5 * ((grid[None] - m0) / s) ** 2
        best = gain.argmax(1).clamp(1, len(grid) - 2)[:, None]
        left, top, right = (gain.gather(1, best + i)[:, 0] for i in (-1, 0, 1))
        shift = (
            0.5 * (left - right) / (left - 2 * top + right)
        )  # the parabola through the three best: means between points
        value = top - 0.25 * (left - right) * shift
        means = grid[best[:, 0]] + shift * (grid[1] - grid[0])
        out.append((-0.5 * ((grid - means[:, None]) / s) ** 2).softmax(1))
    return out[::-1]


# a linear-Gaussian chain
# ---------------------------------------------------------------------------------------------


class Linear(nn.Module):
    """The exact DATA network of N(mean, variance) plus theta_0 + theta_1 x: every step is affine."""

    def __init__(self, process: Process, mean: float, variance: float, theta: Tensor) -> None:
        super().__init__()
        self.process, self.mean, self.variance, self.theta = process, mean, variance, nn.Parameter(theta)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.process.alpha(t)[:, None], self.process.sigma(t)[:, None]
        gain = alpha * self.variance / (alpha**2 * self.variance + sigma**2)
        return self.mean + gain * (x - alpha * self.mean) + self.theta[0] + self.theta[1] * x


def affine(plan: Plan, model: Any) -> list[tuple[Tensor, Tensor, float]]:
    """(A_k, b_k, s_k) of x_{k+1} = A_k x_k + b_k + s_k xi, differentiable in theta."""
    probe, found = torch.tensor([[0.0], [1.0]]), Transitions(plan)
    program, out = prepare(plan, model, probe), []
    for k in range(plan.steps):
        m = found.mean(program, lambda call, state: predict(model, call, state, None), [probe] * (k + 1), k)[
            :, 0
        ]
        out.append((m[1] - m[0], m[0], float(found.stds[k])))  # type: ignore[arg-type]
    return out


def exact_values(plan: Plan, model: Any, base: Any, centre: float) -> tuple[Tensor, Tensor]:
    """(E[-(x_N - centre)^2/2], E[path KL]) of the chain from N(0, sigma_0^2): a scalar recursion,
    differentiable in theta.
    """
    mean, variance = torch.zeros(()), plan.process.sigma(plan.times[0]) ** 2  # type: ignore[arg-type]
    kl = torch.zeros(())
    for (a, b, s), (a0, b0, _) in zip(affine(plan, model), affine(plan, base), strict=True):
        if s:
            kl = kl + (((a - a0) * mean + b - b0) ** 2 + (a - a0) ** 2 * variance) / (2 * s**2)
        mean, variance = a * mean + b, a**2 * variance + s**2
    return -0.5 * ((mean - centre) ** 2 + variance), kl


# a policy to train
# ---------------------------------------------------------------------------------------------------


class Corrected(nn.Module):
    """The exact NOISE network of a mixture plus a small network that starts at zero: steps' KLs are alike."""

    def __init__(self, mixture: Mixture, process: Process, width: int = 64, seed: int = 0) -> None:
        super().__init__()
        self.mixture, self.process, d = mixture, process, mixture.means.shape[1]
        generator = torch.Generator().manual_seed(seed)
        sizes = (d + 1, width, width, d)
        layers = [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)]
        for layer in layers:
            for value in (layer.weight, layer.bias):
                nn.init.uniform_(
                    value, -(layer.in_features**-0.5), layer.in_features**-0.5, generator=generator
                )
        for value in layers[-1].parameters():
            nn.init.zeros_(value)
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = torch.cat([x, t[:, None].to(x)], 1)
        for layer in self.layers[:-1]:
            h = nn.functional.silu(layer(h))
        return self.mixture.noise(x, self.process.alpha(t), self.process.sigma(t)) + self.layers[-1](h)


def _exact(mixture: Mixture, process: Process) -> Denoiser:
    return Denoiser(lambda x, t: mixture.noise(x, process.alpha(t), process.sigma(t)), process, NOISE)


def corrected(mixture: Mixture, plan: Plan, seed: int = 0) -> Any:
    """A policy that starts at the exact network, which is its reference too."""
    process = plan.process
    return Policy(
        Denoiser(Corrected(mixture, process, seed=seed), process, NOISE), plan, _exact(mixture, process)
    )


def batch_of(
    plan: Plan, size: int, seed: int, d: int = 1, dtype: torch.dtype = torch.float64, low: int = 0
) -> Any:
    """Samples low .. low + size - 1 of `seed`, four to a group."""
    ids = tuple(range(low, low + size))
    noise = Addressed(seed, ids)
    like = torch.zeros(size, d, dtype=dtype)
    sigma = float(plan.process.sigma(plan.times[0]))  # type: ignore[arg-type]
    return Batch(sigma * noise.initial(like), noise, torch.tensor(ids) // 4)


def drawn(plan: Plan, size: int, generator: torch.Generator, d: int = 1) -> Batch:
    """A batch whose noise comes from one torch generator: much faster than addresses for thousands of samples."""
    noise = torch.randn(plan.slots + 1, size, d, generator=generator)
    sigma = float(plan.process.sigma(plan.times[0]))  # type: ignore[arg-type]
    return Batch(sigma * noise[0], GivenNoise(noise[1:]), torch.zeros(size, dtype=torch.long))


class Table(nn.Module):
    """The exact NOISE network of a mixture on the line plus, for every step, a piecewise linear function of
    x: learns fast.
    """

    def __init__(self, mixture: Mixture, plan: Plan, knots: int = 33, reach: float = 4.0) -> None:
        super().__init__()
        self.mixture, self.process, self.reach = mixture, plan.process, reach
        self.times = torch.tensor(plan.times[:-1])
        self.values = nn.Parameter(torch.zeros(plan.steps, knots))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        step, last = int((self.times - t[0]).abs().argmin()), self.values.shape[1] - 1
        place = ((x / self.reach + 1) / 2 * last).clamp(0, last - 1e-9)
        low = place.detach().floor().long()
        left, right = (self.values[step][low + i] for i in (0, 1))
        moved = left + (place - low) * (right - left)
        return self.mixture.noise(x, self.process.alpha(t), self.process.sigma(t)) + moved


def tabled(mixture: Mixture, plan: Plan) -> Policy:
    """A policy on the line that can express any smooth control, at its reference to begin with."""
    return Policy(Denoiser(Table(mixture, plan), plan.process, NOISE), plan, _exact(mixture, plan.process))
