"""The image of an edit and its mask, at the size that is drawn. As with OpenAI, a mask is transparent where it is edited."""

from typing import TYPE_CHECKING, Any

from pangu.serve.inference.messages import Job, RequestError

if TYPE_CHECKING:
    from torch import Tensor

MOST_SIDE = 2048
MASKS = ("PNG",)


def fitted(image: Any, width_height: tuple[int, int], job: Job, *, smooth: bool = True) -> Any:
    """An image of an edit at the size that is drawn: as it is, or its middle resized where the request takes the nearest size.

    Raises:
        RequestError: it has another size.
    """
    from PIL import Image, ImageOps

    if image.size == width_height:
        return image
    if not job.nearest_size:
        (wide, high), (width, height) = image.size, width_height
        raise RequestError(
            f"Invalid value for 'image': it is {wide}x{high}, but {width}x{height} is drawn; resize it first.", "image"
        )
    resampling = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    return ImageOps.fit(image, width_height, resampling)


def read_mask(job: Job, image_size: tuple[int, int]) -> Any:
    """A PIL image in mode L of the size of the edited image: 255 where it is edited, 0 where it stays.

    Raises:
        RequestError: the mask is no png, has no transparency, another size, or no transparent pixel.
    """
    from pangu.data.images import BadImage, check_header, read_opacity

    assert job.mask is not None, "only masked edits have a mask"
    try:
        if max(check_header(job.mask, formats=MASKS)) > MOST_SIDE:
            raise _refusal(f"no side may be longer than {MOST_SIDE}")
        alpha = read_opacity(job.mask, formats=MASKS)
    except BadImage as error:
        raise _refusal("it is no PNG image, or damaged") from error
    if alpha.size != image_size:
        (wide, high), (width, height) = alpha.size, image_size
        raise _refusal(f"it is {wide}x{high}, and the image is {width}x{height}")
    edited = alpha.point(lambda opacity: 255 if opacity == 0 else 0)
    if edited.getbbox() is None:
        raise _refusal("it has no transparent area, so nothing would be edited")
    return edited


def drawn_cells(mask: Any, factor: int) -> "Tensor":
    """(1, 1, H / factor, W / factor): 1 for each latent of which a pixel is edited, 0 for those that stay."""
    import numpy as np
    import torch

    pixels = torch.from_numpy(np.asarray(mask).copy()).float()[None, None] / 255
    return torch.nn.functional.max_pool2d(pixels, factor)


def _refusal(reason: str) -> RequestError:
    return RequestError(f"Invalid value for 'mask': {reason}.", "mask")
