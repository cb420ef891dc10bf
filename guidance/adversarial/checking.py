"""What is handed in as images is looked at before any work is done."""

from torch import Tensor

from ...solvers.kinds import described


def check_images(name: str, images: Tensor) -> None:
    """Raise ValueError unless there is a batch of floating-point numbers."""
    if images.ndim < 2 or not images.is_floating_point() or images.is_meta:
        raise ValueError(
            f"{name}: got {described(images)}{' on meta' if images.is_meta else ''}, expected floating-point numbers "
            "(B, ...); give one image a batch axis by x[None], and integers a dtype by x.float()"
        )
