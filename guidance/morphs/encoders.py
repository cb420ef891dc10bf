"""Encoders: from an image to the latents from which a plan gives it back, nearly or exactly."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...adjoint import sample
from ...solvers import (
    Addressed,
    DPMSolverPP,
    Encoding,
    Grid,
    Method,
    Model,
    Noise,
    Plan,
    encode,
    recover_noise,
)
from ...solvers.checked import CheckedFields
from ...solvers.process import as_time
from ..edit.base import falling_times
from ..edit.fixed_point import aidi
from .latent import Latents


class Encoder(CheckedFields, ABC):
    """How an image is encoded for `plan`, which decodes."""

    @abstractmethod
    def encode(self, model: Model, plan: Plan, images: Tensor, cond: Any) -> tuple[Latents, int]:
        """(latents of images (B, ...), network evaluations of each). No graph."""


@dataclass(frozen=True)
class FlowEncoder(Encoder):
    """The probability-flow ODE from the image up to noise by `method`: with `DDIM()`, DDIM inversion.

    Gives the image back up to the error of both solvers.

    Args:
        grid: falling, from the plan's first time to its last, gone along backwards; None: the plan's own times.

    Cost: one run of `method` along the grid.
    """

    method: Method = DPMSolverPP(2)
    grid: Grid | None = None

    def encode(self, model: Model, plan: Plan, images: Tensor, cond: Any) -> tuple[Latents, int]:
        if plan.entry != ("x",):
            raise ValueError(
                f"FlowEncoder: got {plan.name}, which starts from the registers {', '.join(plan.entry)}, expected a "
                "plan that starts from a state; take ReversibleEncoder()"
            )
        own = as_time(list(plan.times))
        times = own if self.grid is None else falling_times(self.grid, model.process)
        if not torch.allclose(times[[0, -1]], own[[0, -1]], rtol=1e-6):
            raise ValueError(
                f"FlowEncoder: got a grid from {float(times[0]):.6g} to {float(times[-1]):.6g} for a plan from "
                f"{plan.times[0]} to {plan.times[-1]}, expected equal ends; pass start= and end= of the plan's grid"
            )
        up = self.method.along(model.process, times.flip(0))
        return Latents(sample(model, up, images, cond=cond, gradient=None), cond=cond), up.nfe


@dataclass(frozen=True)
class FixedPointEncoder(Encoder):
    """The start from which a deterministic single-step plan (DDIM, FlowEuler) gives the image: each step undone by a
    fixed point (AIDI, `edit.aidi`), to `tolerance` where it converges.

    Cost: up to iterations evaluations a step.
    """

    iterations: int = 30
    tolerance: float = 1e-6

    def encode(self, model: Model, plan: Plan, images: Tensor, cond: Any) -> tuple[Latents, int]:
        found = aidi(
            model,
            plan,
            images,
            source=cond,
            target=cond,
            iterations=self.iterations,
            tolerance=self.tolerance,
        )
        return Latents(found.latent, cond=cond), found.nfe


@dataclass(frozen=True)
class ReversibleEncoder(Encoder):
    """The registers at the end of a reversible plan that rises from the image to noise. `up.inverse()`, which decodes
    them, gives the image back to round-off.

        up = ReversibleHeun().plan(process, Rising(grid))
        morph(model, up.inverse(), pair, recognisers, LatentBlend(), encoder=ReversibleEncoder(up))

    Blends alone take several registers. A plan of a reversible method that falls from noise is encoded by
    `FlowEncoder` as any other, and optimised.

    Cost: one run.
    """

    up: Plan

    def encode(self, model: Model, plan: Plan, images: Tensor, cond: Any) -> tuple[Latents, int]:
        if self.up.inverse() != plan:
            raise ValueError(
                f"ReversibleEncoder: got {self.up.name} for {plan.name}, expected plan = up.inverse(): no other takes "
                "its registers; pass that to morph, or take FlowEncoder()"
            )
        with torch.no_grad():
            registers = encode(model, self.up, images, cond)
        start = {name: value.to(images.dtype) for name, value in registers.items()}
        return Latents(start, cond=cond), self.up.nfe


@dataclass(frozen=True)
class StochasticEncoder(Encoder):
    """The start and the draws from which a stochastic plan (DDPM, DDIM(eta), SASolver(tau=...), ...) gives the image
    back to round-off: `recover_noise`, CycleDiffusion's encoding.

    Args:
        noise: what the path upwards is drawn with: the same for both subjects, whose draws are then alike.
        encoding: JOINT, one path, or INDEPENDENT (edit-friendly).

    Cost: one run.
    """

    noise: Noise = Addressed(0, stream=1)
    encoding: Encoding = Encoding.JOINT

    def encode(self, model: Model, plan: Plan, images: Tensor, cond: Any) -> tuple[Latents, int]:
        with torch.no_grad():
            start, draws = recover_noise(
                model, plan, images, cond=cond, noise=self.noise, encoding=self.encoding
            )
        assert isinstance(start, Tensor) and isinstance(draws.values, Tensor)
        return Latents(start, draws.values, cond), plan.nfe
