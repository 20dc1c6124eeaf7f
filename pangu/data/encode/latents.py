"""Images to latents at the sizes of a view, as precomputed and on-the-fly rows share it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pangu.data.encode.edges import find_edges
from pangu.data.encode.pixels import fit_pixels, shrink_pixels, to_unit
from pangu.data.encode.views import View
from pangu.models.autoencoders import encode_pixels
from pangu.models.cascade import lower_latents


@dataclass(frozen=True)
class Seen:
    """What a view makes of some images, in their order.

    latents: (C, h, w) of each at its preset's size; lower: of the earlier stage's image in a cascade; edges: (H, W) bool, px.
    """

    latents: list[Tensor]
    lower: list[Tensor]
    edges: list[np.ndarray]


def encode_view(images: Sequence[bytes], presets: Sequence[int], view: View, autoencoder: Any, batch_size: int) -> Seen:
    """Encoded image bytes as the view's jobs see them."""
    latents: dict[int, Tensor] = {}
    lower: dict[int, Tensor] = {}
    edges: dict[int, np.ndarray] = {}
    for preset in sorted(set(presets)):
        rows = [row for row, other in enumerate(presets) if other == preset]
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            pixels = np.stack([fit_pixels(images[row], *view.sizes[preset]) for row in batch])
            latents |= zip(batch, pixel_latents(pixels, autoencoder), strict=True)
            if view.lower_sizes is not None:
                lower |= zip(batch, shrunk_latents(pixels, view.lower_sizes[preset], autoencoder), strict=True)
            if view.control is not None:
                edges |= {row: find_edges(one, view.control) for row, one in zip(batch, pixels, strict=True)}
    return Seen(*([found[row] for row in sorted(found)] for found in (latents, lower, edges)))  # type: ignore[arg-type]


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
