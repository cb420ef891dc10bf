"""torchdiffeq and torchsde as solvers of a denoiser's ODE and SDE. The only folder that knows them."""

from .backsolve import Backsolve
from .fields import as_ode, as_sde
from .torchdiffeq import TorchDiffEq
from .torchsde import TorchSDE

__all__ = [
    "Backsolve", "TorchDiffEq", "TorchSDE", "as_ode", "as_sde",
]  # fmt: skip
