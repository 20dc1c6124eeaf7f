"""What a later stage of a cascade is conditioned on: the upsampled image of the stage before, as latents.

Training and sampling share it, so that a stage is asked with what it was trained with.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pangu.models.autoencoders import encode_pixels


def upsample(pixels_bchw: Tensor, height: int, width: int) -> Tensor:
    """(B, 3, h, w) in [-1, 1] -> (B, 3, height, width) in [-1, 1], bicubic."""
    return functional.interpolate(pixels_bchw.float(), (height, width), mode="bicubic", align_corners=False).clamp(
        -1, 1
    )


@torch.no_grad()
def lower_latents(autoencoder: Any, pixels_bchw: Tensor, height: int, width: int) -> Tensor:
    """Scaled latents (B, C, H, W) of a lower-resolution image, upsampled in pixels to (height, width) px.

    Upsampling latents instead would correlate neighbouring values that the autoencoder never correlates (PanGu-Draw, Fig. 3a).
    """
    return encode_pixels(autoencoder, upsample(pixels_bchw, height, width))
