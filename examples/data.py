"""The real images the bundled models are trained on; both ship inside packages."""

from typing import Any

import torch
from torch import Tensor


def digit_images() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits: images (1797, 1, 8, 8) in [-1, 1] and labels (1797,)."""
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    return torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1, torch.tensor(data.target)


def face_images() -> Tensor:
    """scikit-image's lfw_subset, its first 100 images, the faces: (100, 1, 25, 25) in [-1, 1]."""
    from skimage.data import lfw_subset

    return torch.tensor(lfw_subset()[:100], dtype=torch.float32)[:, None] * 2 - 1
