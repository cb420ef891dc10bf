"""dlib's file of weights, read as bytes: nothing in it is executed."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

CONVOLUTIONS = 29
Convolution = tuple[Tensor, Tensor]  # filters (out, in, k, k), biases (out,)


def dlib_file() -> Path:
    """Where `face-recognition-models` put dlib's face network.

    Raises:
        ImportError: the package is not there, with what to install.
    """
    found = find_spec(
        "face_recognition_models"
    )  # its import needs pkg_resources, which setuptools no longer has
    if found is None or not found.submodule_search_locations:
        raise ImportError(
            "dlib's face network: got no package face_recognition_models, expected it beside torch; install it: "
            'pip install "pullback[faces]"'
        )
    return Path(found.submodule_search_locations[0]) / "models" / "dlib_face_recognition_resnet_model_v1.dat"


@dataclass(eq=False)
class _Bytes:
    """A place in dlib's serialisation."""

    data: bytes
    at: int = 0

    def after(self, tag: str) -> None:
        """Go behind the next layer of a kind: its name, with the name's length in front."""
        name = b"\x01" + bytes([len(tag)]) + tag.encode()
        found = self.data.find(name, self.at)
        if found < 0:
            raise ValueError(
                f"dlib's face network: got a file without a further {tag!r}, expected {CONVOLUTIONS} convolutions, "
                "each with its affine layer, and a matrix; reinstall face-recognition-models"
            )
        self.at = found + len(name)

    def whole(self) -> int:
        """A whole number: the count of its bytes, then these, the least first."""
        count = self.data[self.at] & 0x0F
        self.at += 1 + count
        return int.from_bytes(self.data[self.at - count : self.at], "little")

    def numbers(self) -> Tensor:
        """A tensor: the format's version, 2, four sizes, then float32; flattened, in float64."""
        version, *sizes = (self.whole() for _ in range(5))
        count = int(np.prod(sizes))
        if version != 2 or self.at + 4 * count > len(self.data):
            raise ValueError(
                f"dlib's face network: got a tensor of version {version} and sizes {sizes}, expected version 2 and "
                "sizes that the file holds; reinstall face-recognition-models"
            )
        self.at += 4 * count
        raw = np.frombuffer(self.data, "<f4", count, self.at - 4 * count)
        return torch.tensor(raw, dtype=torch.float64)


def dlib_weights(path: Path) -> tuple[list[Convolution], Tensor]:
    """The 29 convolutions, from the image to the descriptor, and the last matrix (256, 128), in float64.

    Each convolution is followed by an affine layer, a gain and a shift per channel: it is multiplied in.

    Raises:
        ValueError: the file is not dlib's face network, version 1.
    """
    here = _Bytes(path.read_bytes())
    convolutions = list(_convolutions(here))
    here.after("fc_2")
    outputs, inputs = here.whole(), here.whole()
    return convolutions, here.numbers().reshape(inputs, outputs)


def _convolutions(here: _Bytes) -> Iterator[Convolution]:
    channels, kernel = 3, 7
    for _ in range(CONVOLUTIONS):
        here.after("con_4")
        numbers = here.numbers()
        width = len(numbers) // (channels * kernel**2 + 1)
        filters = numbers[:-width].reshape(width, channels, kernel, kernel)
        here.after("affine_")
        gain, shift = here.numbers().reshape(2, width)
        yield filters * gain[:, None, None, None], numbers[-width:] * gain + shift
        channels, kernel = width, 3
