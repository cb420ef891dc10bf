"""dlib's face recogniser: read into PyTorch, and as the black box that dlib itself is."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...solvers.checked import checked
from .chip import Chip, EightBits
from .dlib_network import DlibNetwork
from .dlib_weights import dlib_file, dlib_weights
from .own import BlackBoxRecogniser, Embedding

DLIB_THRESHOLD = 0.6


class ThroughChip(nn.Module):
    """network(chip(images))."""

    def __init__(self, chip: Chip, network: nn.Module) -> None:
        super().__init__()
        self.chip, self.network = chip, network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.chip(images))


@checked
def dlib_face(threshold: float | None = DLIB_THRESHOLD, chip: Chip = Chip()) -> Embedding:
    """dlib's face network in PyTorch, differentiable, with the enlargement in front: images (B, 1 or 3, n, n) to
    descriptors (B, 128), compared by Euclidean distance.

    Its descriptor of a chip is dlib's own (float32 round-off); `Chip(levels=EightBits())` sees exactly the chip that
    `dlib_black_box` sees, the default keeps the fractions that dlib would round away. It computes in the images' dtype;
    `dlib_face().network.to(device)` moves it.

    Args:
        threshold: 0.6 is dlib's for aligned photographs; calibrate your own (`Calibration`) for other images.
        chip: the range of the images, and what becomes of colours between two levels.

    Raises:
        ImportError: the package face-recognition-models is not there.
    """
    network = ThroughChip(chip, DlibNetwork(*dlib_weights(dlib_file())))
    return Embedding(network.eval(), threshold)


@checked
def dlib_black_box(threshold: float | None = DLIB_THRESHOLD, chip: Chip = Chip()) -> BlackBoxRecogniser:
    """The same recogniser computed by dlib, without jitter and without a gradient. It reads files of 8 bits, so the
    chip is rounded whatever `chip` says.

    Raises:
        ImportError: dlib or face-recognition-models is not there.

    Cost: 0.1 to 0.2 s an image on a CPU core.
    """
    try:
        import dlib
    except ImportError as error:
        raise ImportError(
            'dlib_black_box: got no package dlib, expected it beside torch; install it: pip install "pullback[faces]"'
        ) from error
    model: Any = dlib.face_recognition_model_v1(str(dlib_file()))  # type: ignore[attr-defined]
    return BlackBoxRecogniser(_Dlib(model, replace(chip, levels=EightBits())), threshold)


@dataclass(frozen=True, eq=False)
class _Dlib:
    """images -> descriptors (B, 128)."""

    model: Any
    chip: Chip

    def __call__(self, images: Tensor) -> Tensor:
        chips = self.chip(images).to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
        found = [list(self.model.compute_face_descriptor(chip)) for chip in chips]
        return torch.tensor(found, dtype=images.dtype, device=images.device)
