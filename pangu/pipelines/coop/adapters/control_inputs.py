"""Control images and scales of ControlNets, checked and prepared alike for every adapter."""

from typing import Any

from diffusers.image_processor import VaeImageProcessor
from torch import Tensor

from pangu.data.images import opened_rgb
from pangu.errors import UserError
from pangu.pipelines.coop.given_images import check_images
from pangu.pipelines.coop.model_adapter import GenerationRequest, ModelAdapter

PROCESSOR = VaeImageProcessor(vae_scale_factor=1, do_resize=False, do_convert_rgb=True, do_normalize=False)


def control_pictures(adapter: ModelAdapter, request: GenerationRequest) -> list[Tensor]:
    """The control images of each ControlNet for the whole batch, (images, 3, height, width) in [0, 1].

    Raises:
        UserError: an image is missing, too many are given, or one has another size than the picture.
    """
    count = control_count(adapter)
    if request.image is None:
        raise UserError(f"{adapter.name} has {count} ControlNet(s), but no control image; give image=...")
    images = [request.image] if count == 1 else request.image
    if not isinstance(images, (list, tuple)) or len(images) != count:
        found = len(images) if isinstance(images, (list, tuple)) else 1
        raise UserError(f"{adapter.name} has {count} ControlNets, but {found} control image(s); give one each.")
    return [_prepared(image, adapter, request) for image in images]


def control_scales(adapter: ModelAdapter, request: GenerationRequest) -> list[float]:
    """The scale of each ControlNet.

    Raises:
        UserError: a list of the wrong length.
    """
    count, given = control_count(adapter), request.conditioning_scale
    scales = [float(given)] * count if isinstance(given, (int, float)) else [float(scale) for scale in given]
    if len(scales) != count:
        raise UserError(f"{adapter.name} has {count} ControlNet(s), but {len(scales)} values of conditioning_scale.")
    return scales


def control_count(adapter: ModelAdapter) -> int:
    return len(adapter.pipe.controlnet.nets) if hasattr(adapter.pipe.controlnet, "nets") else 1


def _prepared(image: Any, adapter: ModelAdapter, request: GenerationRequest) -> Tensor:
    image = opened_rgb(image)
    check_images(image, request.height, request.width, adapter.name, "the control image")
    batch = len(image) if isinstance(image, (list, tuple)) or getattr(image, "ndim", 0) == 4 else 1
    if batch not in (1, len(request.prompts)):
        raise UserError(
            f"{adapter.name}: {batch} control images came with {len(request.prompts)} prompts; give one, or one each."
        )
    pixels = PROCESSOR.preprocess(image).to(adapter.device, adapter.pipe.controlnet.dtype)
    repeats = request.images // batch
    return pixels.repeat_interleave(repeats, dim=0) if repeats > 1 else pixels
