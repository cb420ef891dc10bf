"""The bundled models by name: `load("faces")`, `load("mnist_flow")`, `load("embedder0")`, `load("classifier0")`.

`digits` and `classifier` are for digits of 8x8, `mnist` and `mnist_classifier` for those of 28x28.
"""

import pathlib

import torch
from networks import Embedder
from safetensors.torch import load_file
from torch import nn
from train import CLASSIFIER_WIDTHS, EMBEDDER_WIDTHS, MODELS
from train_mnist import classifiers, diffusion

from pullback.solvers import FLOW, VP, Denoiser, RectifiedFlow, V

WEIGHTS = pathlib.Path(__file__).parent / "weights"
NAMES = (
    "faces",
    "digits",
    "faces_flow",
    "digits_flow",
    *(f"embedder{k}" for k in range(3)),
    *(f"classifier{k}" for k in range(2)),
    "mnist",
    "mnist_flow",
    *(f"mnist_classifier{k}" for k in range(2)),
)


def load(name: str) -> nn.Module:
    """The network `name`, frozen, in float32, from safetensors (nothing is ever unpickled)."""
    if name not in NAMES:
        raise ValueError(f"bundled model: got {name!r}, expected one of {', '.join(NAMES)}")
    if name in MODELS:
        network = MODELS[name]()
    elif name in ("mnist", "mnist_flow"):
        # a quarter faster on a CPU
        network = diffusion().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    elif name.startswith("mnist_classifier"):
        network = classifiers()[int(name[-1])]
    elif name.startswith("embedder"):
        network = Embedder(25, EMBEDDER_WIDTHS[int(name[-1])])
    else:
        network = Embedder(8, CLASSIFIER_WIDTHS[int(name[-1])], outputs=10, unit=False)
    network = network.float()
    network.load_state_dict(load_file(WEIGHTS / f"{name}.safetensors"))
    return network.eval().requires_grad_(False)


def denoiser(name: str) -> Denoiser:
    """A Denoiser: `faces`, `digits`, `mnist` predict v under VP(), `..._flow` the velocity under RectifiedFlow().

    Digits of either size take labels (B,) or class vectors (B, 11) as cond.
    """
    return (
        Denoiser(load(name), RectifiedFlow(), FLOW)
        if name.endswith("_flow")
        else Denoiser(load(name), VP(), V)
    )
