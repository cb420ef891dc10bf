"""The bundled models by name."""

import pathlib
from collections.abc import Callable

import torch
from safetensors.torch import load_file
from torch import nn

from pullback.solvers import FLOW, VP, Denoiser, RectifiedFlow, V

from .networks import Embedder, ResidualClassifier, UNet

WEIGHTS = pathlib.Path(__file__).parent / "weights"

# what each is built as, before it is trained
_BUILT: dict[str, Callable[[], nn.Module]] = {
    **dict.fromkeys(("faces", "faces_flow"), lambda: UNet(25, 24, (1, 2, 3))),
    **dict.fromkeys(("digits", "digits_flow"), lambda: UNet(8, 24, (1, 2), classes=10)),
    **dict.fromkeys(("mnist", "mnist_flow"), lambda: UNet(28, 48, (1, 3), classes=10, patch=2)),
    "embedder0": lambda: Embedder(25, 32),
    "embedder1": lambda: Embedder(25, 40),
    "embedder2": lambda: Embedder(25, 24),
    "classifier0": lambda: Embedder(8, 24, outputs=10, unit=False),
    "classifier1": lambda: Embedder(8, 32, outputs=10, unit=False),
    "mnist_classifier0": lambda: Embedder(28, 16, outputs=10, unit=False),
    "mnist_classifier1": lambda: ResidualClassifier(24, outputs=10),
}
NAMES = tuple(_BUILT)
DENOISERS = tuple(name for name in NAMES if name.removesuffix("_flow") in ("faces", "digits", "mnist"))


def architecture(name: str) -> nn.Module:
    """The network `name` as it is before training, on torch's global generator.

    Raises:
        ValueError: no bundled model has this name.
    """
    if name not in _BUILT:
        raise ValueError(f"bundled model: got {name!r}, expected one of {', '.join(NAMES)}")
    return _BUILT[name]()


def load(name: str) -> nn.Module:
    """The trained network `name`, frozen, in float32, from safetensors (nothing is ever unpickled).

    `faces`, `digits`, `mnist` and each with `_flow` are called with x (B, 1, S, S) in [-1, 1] plus noise, t (B,) in
    [0, 1] and, for digits of both sizes, labels (B,) or class vectors (B, 11), of which the last is the null label;
    S = 25, 8, 28. `embedder0-2` read faces to unit vectors (B, 64), `classifier0-1` digits of 8x8 and
    `mnist_classifier0-1` those of 28x28 to scores (B, 10).

    Raises:
        ValueError: no bundled model has this name.
    """
    network = architecture(name).float()
    if name in ("mnist", "mnist_flow"):
        # a quarter faster on a CPU
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.load_state_dict(load_file(WEIGHTS / f"{name}.safetensors"))
    return network.eval().requires_grad_(False)


def denoiser(name: str) -> Denoiser:
    """A Denoiser: `faces`, `digits`, `mnist` predict v under VP(), `..._flow` the velocity under RectifiedFlow().

    Digits of either size take labels (B,) or class vectors (B, 11) as cond.

    Raises:
        ValueError: `name` is no bundled diffusion or flow.
    """
    if name not in DENOISERS:
        raise ValueError(f"bundled denoiser: got {name!r}, expected one of {', '.join(DENOISERS)}")
    return (
        Denoiser(load(name), RectifiedFlow(), FLOW)
        if name.endswith("_flow")
        else Denoiser(load(name), VP(), V)
    )
