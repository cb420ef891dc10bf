"""The real images that the bundled models were trained on: two sets from packages, MNIST from beside this file."""

import pathlib

import numpy as np
import torch
from torch import Tensor

from pullback.solvers.optional import library


def digit_images() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits: images (1797, 1, 8, 8) in [-1, 1] and labels (1797,). Needs scikit-learn."""
    data = library("sklearn.datasets", "digit_images", "examples").load_digits()
    return torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1, torch.tensor(data.target)


def face_images() -> Tensor:
    """scikit-image's lfw_subset, its first 100 images, the faces: (100, 1, 25, 25) in [-1, 1]. Needs scikit-image."""
    faces = library("skimage.data", "face_images", "examples").lfw_subset()
    return torch.tensor(faces[:100], dtype=torch.float32)[:, None] * 2 - 1


MNIST_TRAIN = slice(0, 8000)
MNIST_HELD_OUT = slice(8000, 10_000)


def mnist_images() -> tuple[Tensor, Tensor]:
    """10,000 MNIST digits: images (10000, 1, 28, 28) in [-1, 1] and labels (10000,), in an order already shuffled.

    No bundled model has seen those in MNIST_HELD_OUT.
    """
    with np.load(pathlib.Path(__file__).parent / "data" / "mnist10k.npz") as file:
        images, labels = torch.from_numpy(file["images"]), torch.from_numpy(file["labels"])
    return images[:, None].float() / 127.5 - 1, labels.long()
