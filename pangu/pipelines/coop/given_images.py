"""The size of images that users give, checked against what is drawn."""

from typing import Any

from torch import Tensor

from pangu.errors import UserError


def check_images(image: Any, height: int, width: int, who: str, what: str) -> None:
    """Raises UserError if an image, or one of a batch, is not exactly height x width: nothing is silently resized."""
    found = image_size(image)
    if found is None:
        raise UserError(
            f"{who}: {what} must be a PIL image, an array, a tensor, or a list of them, not {type(image).__name__}."
        )
    if found != (height, width):
        raise UserError(
            f"{who}: {what} is {found[0]}x{found[1]} (height x width), but {height}x{width} is drawn; resize it first."
        )


def image_size(image: Any) -> tuple[int, int] | None:
    """(height, width) of a PIL image, an array with channels last, a tensor with channels first, or a list of them."""
    if isinstance(image, (list, tuple)):
        sizes = {image_size(entry) for entry in image}
        return sizes.pop() if len(sizes) == 1 else None
    if isinstance(image, Tensor) and image.ndim in (3, 4):
        return int(image.shape[-2]), int(image.shape[-1])
    if hasattr(image, "ndim") and hasattr(image, "shape") and image.ndim in (3, 4):
        return int(image.shape[-3]), int(image.shape[-2])
    if hasattr(image, "size") and isinstance(image.size, tuple):
        return image.size[1], image.size[0]
    return None
