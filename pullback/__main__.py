"""`python -m pullback`: versions, extras, strategies, devices, and whether value and gradient are right here."""

import importlib.metadata
import os
import platform
import re
import sys

import torch

from . import __version__, adjoint
from .adjoint import AdjointDEIS, Checkpoint, Continuous, Direct, Gradient, Reversible, sample
from .solvers import VP, Addressed, DPMSolverPP, ReversibleHeun, UniformLambda
from .solvers.toy import Gaussian

BESIDE = ("numpy", "torchdiffeq", "torchsde", "diffusers", "transformers", "accelerate", "peft", "matplotlib")
MISSING = "not installed"
STRATEGIES: dict[str, tuple[Gradient, float]] = {  # with the error that is expected at most
    "Direct()": (Direct(), 0.02),
    "Checkpoint()": (Checkpoint(), 0.02),
    "Checkpoint(recursive=True)": (Checkpoint(recursive=True), 0.02),
    "Reversible()": (Reversible(), 0.02),
    "Continuous()": (Continuous(), 0.02),
    "AdjointDEIS()": (AdjointDEIS(), 1.0),  # as published: its first order is far off at high noise
}


def installed(name: str) -> str:
    """The version of a package, or that it is not there."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return MISSING


def extras() -> dict[str, list[str]]:
    """By the name of an extra, `pip install pullback[NAME]`, the packages of it that are not there."""
    try:
        wanted = importlib.metadata.requires("pullback") or []
    except importlib.metadata.PackageNotFoundError:  # a bare checkout
        return {}
    missing: dict[str, list[str]] = {}
    for line in wanted:
        found = re.match(r"([\w.-]+)(\[[\w,-]+\])?[^;]*; *extra == ['\"]([\w-]+)['\"]", line)
        if found and found[1] != "pullback":  # an extra of other extras
            missing.setdefault(found[3], [])
            if installed(found[1]) == MISSING:
                missing[found[3]].append(found[1])
    return missing


def strategies() -> list[str]:
    """Every public gradient strategy."""
    found = {name: getattr(adjoint, name) for name in adjoint.__all__}
    return sorted(
        name
        for name, thing in found.items()
        if isinstance(thing, type) and issubclass(thing, Gradient) and thing is not Gradient
    )


def devices() -> list[str]:
    """What tensors can lie on here."""
    found = [f"cuda:{k}" for k in range(torch.cuda.device_count())]
    return ["cpu", *found, *(["mps"] if torch.backends.mps.is_available() else [])]


def error(gradient: Gradient, device: str, steps: int = 40) -> float:
    """|g - g*|/|g*| for g = d(|x_0|^2/2)/dx_1 and data N(1, 0.25 I), whose flow is affine:

    x_0 = 1 + J (x_1 - alpha_1),   g* = J^T x_0,   J in closed form.
    """
    process, data = VP(), Gaussian(torch.ones(3, device=device), 0.25)
    grid = UniformLambda(steps, start=1.0, end=0.01)
    method = ReversibleHeun() if isinstance(gradient, Reversible) else DPMSolverPP(2)
    x1 = Addressed(0).initial(torch.zeros(4, 3, device=device)).requires_grad_()
    x0 = sample(data.denoiser(process), method.plan(process, grid), x1, gradient=gradient)
    (found,) = torch.autograd.grad(x0.square().sum() / 2, x1)
    exact = data.flow(x1, process, torch.tensor(1.0), torch.tensor(0.01))
    (wanted,) = torch.autograd.grad(exact.square().sum() / 2, x1)
    return float((found - wanted).norm() / wanted.norm())


def main() -> int:
    """Print it all; 1 where an error is larger than expected, else 0."""
    print(f"pullback {__version__}, Python {platform.python_version()}, torch {torch.__version__}")
    print(", ".join(f"{name} {installed(name)}" for name in BESIDE))
    for extra, missing in extras().items():
        print(f"pullback[{extra}]: {'all there' if not missing else 'not installed: ' + ', '.join(missing)}")
    print(f"gradient strategies: {', '.join(strategies())}")
    failed = 0
    for device in devices():
        name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
        print(
            f"\n{device} ({name}): gradient at the noise, 40 steps to Gaussian data, error against the flow's"
        )
        for label, (gradient, most) in STRATEGIES.items():
            found = error(gradient, device)
            right = found <= most
            failed += not right
            print(
                f"  {label:28} {found:.1e}  {'as expected' if right else f'WRONG: expected at most {most}'}"
            )
    return min(failed, 1)


if __name__ == "__main__":
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
