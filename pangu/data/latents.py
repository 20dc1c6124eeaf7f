"""Images to latents at the sizes of a view, as precomputed and on-the-fly rows share it. Knows nothing of tables or files."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pangu.data.pixels import fit_pixels, shrink_pixels, to_unit
from pangu.data.views import View
from pangu.models.autoencoders import encode_pixels
from pangu.models.cascade import lower_latents


def encode_view(
    images: Sequence[bytes], presets: Sequence[int], view: View, autoencoder: Any, batch_size: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Latents (C, h, w) of each encoded image at its preset's size, and of the earlier stage's image in a cascade."""
    latents: dict[int, Tensor] = {}
    lower: dict[int, Tensor] = {}
    for preset in sorted(set(presets)):
        rows = [row for row, other in enumerate(presets) if other == preset]
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            pixels = np.stack([fit_pixels(images[row], *view.sizes[preset]) for row in batch])
            latents |= zip(batch, pixel_latents(pixels, autoencoder), strict=True)
            if view.lower_sizes is not None:
                lower |= zip(batch, shrunk_latents(pixels, view.lower_sizes[preset], autoencoder), strict=True)
    return [latents[row] for row in sorted(latents)], [lower[row] for row in sorted(lower)]


@torch.no_grad()
def pixel_latents(pixels_bhwc: np.ndarray, autoencoder: Any) -> Tensor:
    """(B, C, h, w) latents, scaled for diffusion, of (B, H, W, 3) uint8, on the autoencoder's device."""
    return encode_pixels(autoencoder, to_unit(pixels_bhwc, autoencoder.device))


def shrunk_latents(pixels_bhwc: np.ndarray, lower_size: tuple[int, int], autoencoder: Any) -> Tensor:
    """(B, C, h, w) latents of the same images scaled down to `lower_size` and up again: what a stage of a cascade is given."""
    small = np.stack([shrink_pixels(pixels, *lower_size) for pixels in pixels_bhwc])
    return lower_latents(autoencoder, to_unit(small, autoencoder.device), *pixels_bhwc.shape[1:3])


def to_bytes(tensor: Tensor) -> bytes:
    """Half-precision little-endian bytes of a tensor, row-major."""
    return tensor.to(torch.float16).contiguous().cpu().numpy().tobytes()
