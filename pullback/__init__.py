"""Gradients through diffusion and flow samplers: a loss on the sample, its gradient at whatever went in.

    # a plan: method.plan(process, grid)
    x0 = pullback.sample(pullback.Denoiser(network, process, V), plan, x1)
    # reaches x1, conditioning, parameters
    loss(x0).sum().backward()

`pullback.solvers` goes from noise to sample, `pullback.adjoint` from a gradient at the sample to gradients at
the inputs, `pullback.guidance` is what the gradient is for. The names here are those of a first script; all
others are in the three. Every name is loaded on first use.
"""

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import adjoint, guidance, solvers
    from .adjoint import Checkpoint, audit, sample
    from .guidance import Over, RewardTrainer, optimise, steer
    from .solvers import (
        DATA,
        DDIM,
        FLOW,
        NOISE,
        VP,
        Addressed,
        Denoiser,
        DPMSolverPP,
        RectifiedFlow,
        UniformLambda,
        V,
    )

_HOMES = {
    "solvers": ("DATA", "DDIM", "FLOW", "NOISE", "VP", "Addressed", "DPMSolverPP", "Denoiser", "RectifiedFlow",
                "UniformLambda", "V"),
    "adjoint": ("Checkpoint", "audit", "sample"),
    "guidance": ("Over", "RewardTrainer", "optimise", "steer"),
}  # fmt: skip

try:
    __version__ = version("pullback")
except PackageNotFoundError:  # a bare checkout
    __version__ = "0+unknown"

__all__ = [
    "Addressed", "Checkpoint", "DATA", "DDIM", "DPMSolverPP", "Denoiser", "FLOW", "NOISE", "Over",
    "RectifiedFlow", "RewardTrainer", "UniformLambda", "V", "VP", "adjoint", "audit", "guidance", "optimise",
    "sample", "solvers", "steer",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return importlib.import_module(f"{__name__}.{name}")
    for home, names in _HOMES.items():
        if name in names:
            found = getattr(importlib.import_module(f"{__name__}.{home}"), name)
            globals()[name] = found  # the next look-up does not come here
            return found
    raise AttributeError(
        f"module {__name__!r} has no attribute {name!r}; expected one of {', '.join(__all__)}; other names are "
        "in pullback.solvers, pullback.adjoint and pullback.guidance"
    )


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
