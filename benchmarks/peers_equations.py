"""Faults of torchdiffeq and torchsde, for peers_faults.py."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from peers_said import Pair, of, peer
from torch import Tensor, nn

from pullback.adjoint import Checkpoint, Reversible, as_ode, sample
from pullback.solvers import (
    FLOW,
    VP,
    Clock,
    Denoiser,
    DriftDiffusion,
    FlowEuler,
    FlowMidpoint,
    GivenNoise,
    GivenTimes,
    Mixture,
    Rising,
    StratonovichReversibleHeun,
    TimeFirst,
    UniformT,
)  # fmt: skip

F64 = torch.float64


def off(found: list[Any], true: list[Tensor]) -> float:
    """Relative distance of gradients; None counts as 0."""
    pairs = [(torch.zeros_like(b) if a is None else a, b) for a, b in zip(found, true, strict=True)]
    apart = sum(float((a - b).square().sum()) for a, b in pairs)
    return (apart / sum(float(b.square().sum()) for b in true)) ** 0.5


class Field(nn.Module):
    """f(t, x), shifted by a tensor that is no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2))
        self.shift = torch.zeros(2, requires_grad=True)
        self.autocast: list[bool] = []

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        self.autocast.append(torch.is_autocast_enabled("cpu"))
        x = x + self.shift.to(x)
        return self.body(torch.cat([x, t.to(x).reshape(-1, 1).expand(len(x), 1)], 1)).to(x)


def ode(steps: int = 20) -> tuple[Field, Tensor, Tensor, Denoiser, Any]:
    """A field, its start and times, and both as a model and a plan."""
    torch.manual_seed(0)
    field, times = Field().to(F64), torch.linspace(0, 1, steps + 1, dtype=F64)
    field.shift = torch.zeros(2, dtype=F64, requires_grad=True)
    clock = Clock(0.0, 1.0)
    plan = FlowMidpoint().plan(clock, Rising(GivenTimes(times)))
    x = torch.randn(4, 2, dtype=F64, requires_grad=True)
    return field, x, times, Denoiser(field, clock, FLOW, call=TimeFirst()), plan


# torchdiffeq
# ------------------------------------------------------------------------------------------------------------


@of("torchdiffeq")
def captured_by_the_field() -> Pair:
    """Error of the gradient at a tensor that the field holds and that is no parameter."""
    torchdiffeq = peer("torchdiffeq")

    field, x, times, model, plan = ode()

    def at_shift(end: Tensor) -> list[Any]:
        return list(torch.autograd.grad(end.square().sum(), [field.shift], allow_unused=True))

    true = at_shift(torchdiffeq.odeint(field, x, times, method="midpoint")[-1])
    theirs = at_shift(torchdiffeq.odeint_adjoint(field, x, times, method="midpoint")[-1])
    return off(theirs, true), off(at_shift(sample(model, plan, x, gradient=Checkpoint())), true)


@of("torchdiffeq")
def gradient_penalty() -> Pair:
    """Error of the gradient of loss + |d loss/dx|^2, which differentiates a gradient."""
    torchdiffeq = peer("torchdiffeq")

    field, x, times, model, plan = ode()

    def penalised(end: Tensor) -> list[Any]:
        loss = end.square().sum()
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        wanted = [x, *field.parameters()]
        return list(torch.autograd.grad(loss + slope.square().sum(), wanted, allow_unused=True))

    true = penalised(torchdiffeq.odeint(field, x, times, method="midpoint")[-1])
    theirs = penalised(torchdiffeq.odeint_adjoint(field, x, times, method="midpoint")[-1])
    return off(theirs, true), off(penalised(sample(model, plan, x, gradient=Checkpoint())), true)


@of("torchdiffeq")
def autocast_in_the_backward_pass() -> Pair:
    """Share of the backward pass's network calls that run under the autocast of the forward pass."""
    torchdiffeq = peer("torchdiffeq")

    field, x, times, model, plan = ode()
    shares = []
    for solve in (
        lambda: torchdiffeq.odeint_adjoint(field, x, times, method="midpoint")[-1],
        lambda: sample(model, plan, x, gradient=Checkpoint()),
    ):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = solve().square().sum()
        field.autocast.clear()
        loss.backward()
        shares.append(sum(field.autocast) / len(field.autocast))
    return shares[0], shares[1]


@of("torchdiffeq")
def misspelt_option() -> Pair:
    """Steps taken of the 20 asked for where `step_size` is misspelt; ours refuses the name."""
    torchdiffeq = peer("torchdiffeq")

    field, x, times, model, plan = ode()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torchdiffeq.odeint(field, x, times[[0, -1]], method="midpoint", options={"stepsize": 0.05})
    taken = len(field.autocast) // 2
    try:
        sample(model, plan, x, stepsize=0.05)  # type: ignore[call-arg]
    except TypeError:
        return taken, "TypeError"
    return taken, "nothing said"


@of("torchdiffeq")
def backsolve_on_a_diffusion() -> Pair:
    """20 Euler steps of a mixture's probability flow, at O(1) memory: error of the gradient at the noise, against that
    of these very steps.
    """
    torchdiffeq = peer("torchdiffeq")

    draw = torch.Generator().manual_seed(0)
    law = Mixture.isotropic(
        torch.full((6,), 1 / 6, dtype=F64),
        torch.randn(6, 16, generator=draw, dtype=F64),
        torch.full((6,), 0.15).to(F64),
    )
    model, x = law.denoiser(VP()), torch.randn(64, 16, generator=draw, dtype=F64, requires_grad=True)
    field, plan = as_ode(model), FlowEuler().plan(VP(), UniformT(20, start=1.0, end=1e-3))

    def at_start(end: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad((end - law.means[0]).square().sum(), [x]))

    ends, step = torch.tensor([1.0, 1e-3], dtype=F64), {"step_size": 0.999 / 20 * (1 + 1e-9)}
    true = at_start(torchdiffeq.odeint(field, x, ends, method="euler", options=step)[-1])
    theirs = at_start(torchdiffeq.odeint_adjoint(field, x, ends, method="euler", options=step)[-1])
    return off(theirs, true), off(at_start(sample(model, plan, x, gradient=Checkpoint())), true)


# torchsde
# ---------------------------------------------------------------------------------------------------------------


class Equation(nn.Module):
    """dx = f dt + g o dw, the drift shifted by a tensor that is no parameter."""

    noise_type, sde_type = "diagonal", "stratonovich"

    def __init__(self) -> None:
        super().__init__()
        self.field = Field().to(F64)
        self.shift = torch.zeros(2, dtype=F64, requires_grad=True)

    def f(self, t: Tensor, x: Tensor) -> Tensor:
        return self.field(t, x + self.shift)

    def g(self, t: Tensor, x: Tensor) -> Tensor:
        return 0.3 * torch.cos(x)


def reversible_heun(steps: int, wanted: Callable[[Equation, Tensor], list[Tensor]]) -> Pair:
    """Errors of `sdeint_adjoint`'s and of our gradient by reversible Heun, against autograd through theirs."""
    torchsde = peer("torchsde")

    torch.manual_seed(0)
    equation, x = Equation(), torch.randn(4, 2, dtype=F64, requires_grad=True)
    inputs = wanted(equation, x)
    path = torchsde.BrownianInterval(0.0, 1.0, size=(4, 2), dtype=F64, entropy=0)
    given = {"bm": path, "method": "reversible_heun", "dt": 1 / steps}
    ends, clock = torch.tensor([0.0, 1.0], dtype=F64), Clock(0.0, 1.0)
    times = torch.linspace(0, 1, steps + 1, dtype=F64)

    def gradients(end: Tensor) -> list[Any]:
        return list(torch.autograd.grad(end.square().sum(), inputs, allow_unused=True))

    true = gradients(torchsde.sdeint(equation, x, ends, **given)[-1])
    back = torchsde.sdeint_adjoint(equation, x, ends, adjoint_method="adjoint_reversible_heun", **given)[-1]
    unit = torch.stack([path(a, b) for a, b in zip(times[:-1], times[1:], strict=True)]) * steps**0.5
    field = DriftDiffusion(lambda x, t: (equation.f(t, x), equation.g(t, x)))
    state = sample(
        Denoiser(field, clock, FLOW),
        StratonovichReversibleHeun().plan(clock, Rising(GivenTimes(times))),
        field.start(x),
        noise=GivenNoise(torch.cat([torch.zeros_like(unit), unit], 2)),
        gradient=Reversible(),
    )
    return off(gradients(back), true), off(gradients(field.state(state)), true)


@of("torchsde")
def reversible_heun_by_tenths() -> Pair:
    """Error of the gradient at start and weights with dt = 1/10, which no binary number holds."""
    return reversible_heun(10, lambda equation, x: [x, *equation.parameters()])


@of("torchsde")
def reversible_heun_by_sixteenths() -> Pair:
    """The same with dt = 1/16."""
    return reversible_heun(16, lambda equation, x: [x, *equation.parameters()])


@of("torchsde")
def captured_by_the_equation() -> Pair:
    """Error of the gradient at a tensor that the equation holds and that is no parameter: a part of it comes back."""
    return reversible_heun(16, lambda equation, x: [equation.shift])
