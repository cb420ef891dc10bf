"""dlib's face network in PyTorch: a residual network of 29 convolutions with 128 outputs."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .dlib_weights import Convolution

MEAN_RGB = (122.782, 117.001, 104.298)
# (width, whether the block halves the image), from the image to the descriptor
BLOCKS = (
    *((32, False),) * 3, (64, True), *((64, False),) * 3, (128, True), *((128, False),) * 2,
    (256, True), *((256, False),) * 2, (256, True),
)  # fmt: skip


class DlibNetwork(nn.Module):
    """Chips (B, 3, 150, 150), red, green and blue in 0 .. 255, to descriptors (B, 128).

    (rgb - mean) / 256; 7x7 convolution with stride 2, relu, 3x3 max pooling with stride 2; the blocks; the mean over
    the plane; a matrix. It computes in the chips' dtype. The weights are buffers: frozen.

    Args: what `dlib_weights` read.

    Source: D. King, dlib, dlib_face_recognition_resnet_model_v1 (CC0), after He et al. 2016, arXiv 1512.03385. Its
    author gives 99.38 % on LFW at the threshold 0.6. Cost: 0.3 GMAC an image.
    """

    matrix: Tensor
    mean: Tensor

    def __init__(self, convolutions: list[Convolution], matrix: Tensor) -> None:
        super().__init__()
        first, *rest = convolutions
        self.stem = _Convolution(first, stride=2, padding=0)
        pairs = zip(BLOCKS, rest[::2], rest[1::2], strict=True)
        self.blocks = nn.Sequential(*(_Block(a, b, width, halving) for (width, halving), a, b in pairs))
        self.register_buffer("matrix", matrix.float())
        self.register_buffer("mean", torch.tensor(MEAN_RGB)[:, None, None])

    def forward(self, chips: Tensor) -> Tensor:
        x = (chips - self.mean.to(chips.dtype)) / 256
        x = F.max_pool2d(torch.relu(self.stem(x)), 3, 2)
        return self.blocks(x).mean((2, 3)) @ self.matrix.to(chips.dtype)


class _Convolution(nn.Module):
    """Made without torch's initialisation, which would draw from the global generator."""

    filters: Tensor
    biases: Tensor

    def __init__(self, weights: Convolution, stride: int, padding: int) -> None:
        super().__init__()
        filters, biases = weights
        self.stride, self.padding = stride, padding
        self.register_buffer("filters", filters.float())
        self.register_buffer("biases", biases.float())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.filters.to(x.dtype), self.biases.to(x.dtype), self.stride, self.padding)


class _Block(nn.Module):
    """relu(f(x) + x), f of two 3x3 convolutions. A halving block has stride 2 without padding in the first, and adds
    the 2x2 means of x; which of the two is larger then depends on the size, so both are filled up with zeros.
    """

    def __init__(self, first: Convolution, second: Convolution, width: int, halving: bool) -> None:
        super().__init__()
        if any(len(filters) != width for filters, _ in (first, second)):
            raise ValueError(
                f"dlib's face network: got convolutions of {len(first[0])} and {len(second[0])} filters, expected "
                f"{width}; reinstall face-recognition-models"
            )
        self.halving = halving
        self.first = _Convolution(first, stride=2, padding=0) if halving else _Convolution(first, 1, 1)
        self.second = _Convolution(second, stride=1, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        found = self.second(torch.relu(self.first(x)))
        past = F.avg_pool2d(x, 2) if self.halving else x
        channels, height, width = (max(sizes) for sizes in zip(found.shape[1:], past.shape[1:], strict=True))
        return torch.relu(_filled(found, channels, height, width) + _filled(past, channels, height, width))


def _filled(x: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Zeros after the last channel, row and column."""
    return F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2], 0, channels - x.shape[1]))
