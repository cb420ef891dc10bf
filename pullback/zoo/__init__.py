"""Small trained models and their images: what to try the library on at once. Knows solvers.

    from pullback import zoo

    model, reader = zoo.denoiser("mnist"), zoo.load("mnist_classifier0")

Digits of 8x8 and 28x28 and faces of 25x25, each as a diffusion and as a flow, with classifiers and embedders to read
them. What they were trained on, how good they are and what they cannot do: docs/zoo.md. 14 MB, nothing is downloaded.
"""

from .images import MNIST_HELD_OUT, MNIST_TRAIN, digit_images, face_images, mnist_images
from .models import NAMES, architecture, denoiser, load
from .networks import Embedder, ResidualClassifier, UNet

__all__ = [
    "Embedder", "MNIST_HELD_OUT", "MNIST_TRAIN", "NAMES", "ResidualClassifier", "UNet", "architecture", "denoiser",
    "digit_images", "face_images", "load", "mnist_images",
]  # fmt: skip
