"""Control images and scales of ControlNets, checked and prepared alike for every family."""

from typing import Any

import torch
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor

from pangu.data.images import opened_rgb
from pangu.errors import UserError
from pangu.pipelines.coop.family import Ask, Family
from pangu.pipelines.coop.images import check_images

PROCESSOR = VaeImageProcessor(vae_scale_factor=1, do_resize=False, do_convert_rgb=True, do_normalize=False)


def control_pictures(family: Family, ask: Ask) -> list[Tensor]:
    """The control images of each ControlNet for the whole batch, (images, 3, height, width) in [0, 1].

    Raises:
        UserError: an image is missing, too many are given, or one has another size than the picture.
    """
    count = control_count(family)
    if ask.image is None:
        raise UserError(f"{family.name} has {count} ControlNet(s), but no control image; give image=...")
    images = [ask.image] if count == 1 else ask.image
    if not isinstance(images, (list, tuple)) or len(images) != count:
        found = len(images) if isinstance(images, (list, tuple)) else 1
        raise UserError(f"{family.name} has {count} ControlNets, but {found} control image(s); give one each.")
    return [_prepared(image, family, ask) for image in images]


def control_scales(family: Family, ask: Ask) -> list[float]:
    """The scale of each ControlNet.

    Raises:
        UserError: a list of the wrong length.
    """
    count, given = control_count(family), ask.conditioning_scale
    scales = [float(given)] * count if isinstance(given, (int, float)) else [float(scale) for scale in given]
    if len(scales) != count:
        raise UserError(f"{family.name} has {count} ControlNet(s), but {len(scales)} values of conditioning_scale.")
    return scales


def control_count(family: Family) -> int:
    return len(family.pipe.controlnet.nets) if hasattr(family.pipe.controlnet, "nets") else 1


def _prepared(image: Any, family: Family, ask: Ask) -> Tensor:
    image = opened_rgb(image)
    check_images(image, ask.height, ask.width, family.name, "the control image")
    batch = len(image) if isinstance(image, (list, tuple)) or getattr(image, "ndim", 0) == 4 else 1
    if batch not in (1, len(ask.prompts)):
        raise UserError(
            f"{family.name}: {batch} control images came with {len(ask.prompts)} prompts; give one, or one each."
        )
    pixels = PROCESSOR.preprocess(image).to(family.device, family.pipe.controlnet.dtype)
    repeats = ask.images // batch
    return pixels.repeat_interleave(repeats, dim=0) if repeats > 1 else pixels


def for_guidance(pictures: list[Tensor], guided: bool) -> list[Tensor]:
    """The same twice over where the negative prompts stand before the prompts in one batch."""
    return [torch.cat([one] * 2) if guided else one for one in pictures]
