"""Inversion by running a deterministic solver backwards: DDIM inversion, RF-Solver, FireFlow."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...adjoint import Auto, Gradient, sample
from ...adjoint.arguments import check_serves
from ...solvers import DDIM, FLOW, Builder, FlowMidpoint, Method, Model
from ...solvers.checked import checked
from ...solvers.grid import Times
from ...solvers.wanted import Samples
from .base import Edit, check_rectified, falling_times, guided, where_wanted


@dataclass(frozen=True)
class FireFlow(Method):
    """The midpoint rule whose first slope is the midpoint slope m of the step before:

        m_i = u(x + h/2 m_{i-1}, t + h/2);    x <- x + h m_i,    m_{-1} = u(x_0, t_0)

    Second order, since m_{i-1} is the slope at the stage up to O(h). Source: Deng et al. 2024, arXiv
    2412.07517. Cost: N + 1 network calls, 2 states.
    """

    order = 2

    def step(self, b: Builder, i: int) -> None:
        width = b.t[i + 1] - b.t[i]
        slope = f"m{i - 1}" if i else b.evaluate("m", b.t[0], FLOW)
        b.combine(f"s{i}", (1.0, "x"), (width / 2, slope))
        b.combine("x", (1.0, "x"), (width, b.evaluate(f"m{i}", b.t[i] + width / 2, FLOW, f"s{i}")))


@checked
def ode_inversion(
    denoiser: Model,
    image: Samples,
    *,
    source: Any,
    target: Any,
    method: Method,
    grid: Times,
    scale: float | Tensor = 1.0,
    null: Any = None,
    gradient: Gradient | None = Auto(),
) -> Edit:
    """The probability-flow ODE from the image up to noise under `source`, and down again under `target`, by
    `method` on the nodes of `grid` both ways.

    Equal conditions give the image back up to the solver's error (not to round-off: that is
    `exact_inversion`).

    Args:
        image: (B, ...) clean data, the state at the grid's last time. grid: falling, from noise to data.
        scale, null: classifier-free guidance of the way back.
        gradient: the strategy that differentiates the run; None: it only samples.

    Returns:
        An Edit; gradients reach everything. Raises ValueError: a grid that rises, a stochastic method.

    Cost: two runs of the plan.
    """
    times = falling_times(grid, denoiser.process)
    up, down = method.along(denoiser.process, times.flip(0)), method.along(denoiser.process, times)
    check_serves(gradient, up, down)
    kept = where_wanted(gradient, denoiser, image, source)
    latent = sample(denoiser, up, image, cond=source, gradient=kept)
    out = sample(guided(denoiser, scale, null), down, latent, cond=target, gradient=gradient)
    return Edit(out, latent, up.nfe + down.nfe)


@checked
def ddim_inversion(
    denoiser: Model,
    image: Samples,
    *,
    source: Any,
    target: Any,
    grid: Times,
    scale: float | Tensor = 1.0,
    null: Any = None,
    gradient: Gradient | None = Auto(),
) -> Edit:
    """`ode_inversion` by `DDIM()`. Source: Song et al. 2021, arXiv 2010.02502, section 4.3; Dhariwal and
    Nichol 2021, 2105.05233.

    Round trip of first order. Cost: 2 N calls.
    """
    return ode_inversion(
        denoiser,
        image,
        source=source,
        target=target,
        method=DDIM(),
        grid=grid,
        scale=scale,
        null=null,
        gradient=gradient,
    )


@checked
def rf_solver(
    denoiser: Model,
    image: Samples,
    *,
    source: Any,
    target: Any,
    grid: Times,
    scale: float | Tensor = 1.0,
    null: Any = None,
    gradient: Gradient | None = Auto(),
) -> Edit:
    """`ode_inversion` by `FlowMidpoint()`, which is RF-Solver: its Taylor step

        x + h u + h^2/2 u',    u' = (u(x + h/2 u, t + h/2) - u) / (h/2)

    is x + h u(x + h/2 u, t + h/2). Without the attention features the paper also carries over.
    Source: Wang et al. 2024, arXiv 2411.04746. Round trip of second order. Cost: 4 N calls.
    """
    check_rectified("rf_solver", denoiser)
    return ode_inversion(
        denoiser,
        image,
        source=source,
        target=target,
        method=FlowMidpoint(),
        grid=grid,
        scale=scale,
        null=null,
        gradient=gradient,
    )


@checked
def fireflow(
    denoiser: Model,
    image: Samples,
    *,
    source: Any,
    target: Any,
    grid: Times,
    scale: float | Tensor = 1.0,
    null: Any = None,
    gradient: Gradient | None = Auto(),
) -> Edit:
    """`ode_inversion` by `FireFlow()`. Source: Deng et al. 2024, arXiv 2412.07517. Second order.

    Cost: 2 N + 2 calls.
    """
    check_rectified("fireflow", denoiser)
    return ode_inversion(
        denoiser,
        image,
        source=source,
        target=target,
        method=FireFlow(),
        grid=grid,
        scale=scale,
        null=null,
        gradient=gradient,
    )
