"""Encoded image bytes to arrays of one size, as the autoencoder gets them."""

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pangu.data.images import read_rgb

STORED_PIXELS = 170_000_000
"""Bound of an image of a dataset, which passed the card's own: enlarging may have taken it beyond that."""
GAP = 2
"""Lanczos then hides which cosine coefficients were left out: 44 dB from decoding everything, even of noisy pictures."""


def fit_pixels(data: bytes, height: int, width: int | None = None) -> np.ndarray:
    """Encoded image bytes -> (height, width, 3) uint8: read as `read_rgb` does, scaled to cover, centre-cropped.

    A large JPEG is decoded at an eighth, a quarter or half of its size, but never below `GAP` times what is wanted.
    width: None means a square.
    """
    at_least = GAP * max(height, width or height)  # of both sides: Exif may say that they are exchanged
    size = (height if width is None else width, height)
    return np.asarray(ImageOps.fit(read_rgb(data, STORED_PIXELS, at_least), size, Image.Resampling.LANCZOS))


def shrink_pixels(pixels_hwc: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (height, width, 3) uint8, bicubic with antialiasing; the image that an earlier stage would draw."""
    return np.asarray(Image.fromarray(pixels_hwc).resize((width, height), Image.Resampling.BICUBIC))


def to_unit(pixels_bhwc: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1], on `device`; what travels there are bytes."""
    pixels = torch.from_numpy(pixels_bhwc)
    if torch.device(device).type == "cuda":
        pixels = pixels.pin_memory()  # else the copy waits until the device has done what it was given before
    return pixels.to(device, non_blocking=True).permute(0, 3, 1, 2) / 127.5 - 1
