"""Images to latents at the sizes of a view, in two halves: pixels fitted by CPU cores, and what the autoencoder makes of them."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pangu.data.encode.edges import find_edges
from pangu.data.encode.pixels import fit_pixels, shrink_pixels, to_unit
from pangu.data.encode.views import View
from pangu.errors import UserError
from pangu.models.autoencoders import encode_pixels
from pangu.models.cascade import lower_latents

BATCH = 16
"""Images of one size that an autoencoder is given at once."""


@dataclass(frozen=True)
class Fitted:
    """Some images as a view fits them, in their order; needs no network.

    pixels: (H, W, 3) uint8 of each at its preset's size; lower: (h, w, 3) uint8 of the earlier stage's image in a cascade;
    edges: (H, W) bool.
    """

    presets: list[int]
    pixels: list[np.ndarray]
    lower: list[np.ndarray]
    edges: list[np.ndarray]


@dataclass(frozen=True)
class EncodedView:
    """What the autoencoder makes of some images, in their order.

    latents: (C, h, w) of each at its preset's size; lower: of the earlier stage's image in a cascade.
    """

    latents: list[Tensor]
    lower: list[Tensor]


def fit_images(images: Sequence[bytes], presets: Sequence[int], view: View, threads: int = 1) -> Fitted:
    """Encoded image bytes at the sizes that their presets have in the view, decoded by so many threads."""

    def fit(image: bytes, preset: int) -> np.ndarray:
        return fit_pixels(image, *view.sizes[preset])

    def shrink(pixels: np.ndarray, preset: int) -> np.ndarray:
        assert view.lower_sizes is not None
        return shrink_pixels(pixels, *view.lower_sizes[preset])

    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        each: Callable[..., Iterator[np.ndarray]] = map if threads == 1 else pool.map
        pixels = list(each(fit, images, presets))
        lower = [] if view.lower_sizes is None else list(each(shrink, pixels, presets))
        control = view.control
        edges = [] if control is None else list(each(lambda one: find_edges(one, control), pixels))
    return Fitted(list(presets), pixels, lower, edges)


def encode_fitted(fitted: Fitted, view: View, autoencoder: Any, batch_size: int = BATCH) -> EncodedView:
    """Latents of fitted images: at most `batch_size` of one preset at once, on the autoencoder's device."""
    latents: dict[int, Tensor] = {}
    lower: dict[int, Tensor] = {}
    for preset in sorted(set(fitted.presets)):
        rows = [row for row, other in enumerate(fitted.presets) if other == preset]
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            latents |= zip(
                batch, pixel_latents(np.stack([fitted.pixels[row] for row in batch]), autoencoder), strict=True
            )
            if fitted.lower:
                small = np.stack([fitted.lower[row] for row in batch])
                lower |= zip(batch, _enlarged_latents(small, view.sizes[preset], autoencoder), strict=True)
    return EncodedView([latents[row] for row in sorted(latents)], [lower[row] for row in sorted(lower)])


def encode_view(
    images: Sequence[bytes],
    presets: Sequence[int],
    view: View,
    autoencoder: Any,
    batch_size: int = BATCH,
    threads: int = 1,
) -> EncodedView:
    """Encoded image bytes to latents: both halves, one after the other."""
    return encode_fitted(fit_images(images, presets, view, threads), view, autoencoder, batch_size)


@torch.no_grad()
def pixel_latents(pixels_bhwc: np.ndarray, autoencoder: Any) -> Tensor:
    """(B, C, h, w) latents, scaled for diffusion, of (B, H, W, 3) uint8, on the autoencoder's device.

    Raises:
        UserError: the device has not the memory for a single image.
    """
    return in_parts(lambda part: encode_pixels(autoencoder, to_unit(part, autoencoder.device)), pixels_bhwc)


def shrunk_latents(pixels_bhwc: np.ndarray, lower_size: tuple[int, int], autoencoder: Any) -> Tensor:
    """(B, C, h, w) latents of the same images scaled down to `lower_size` and up again: what a stage of a cascade is given."""
    height, width = pixels_bhwc.shape[1:3]
    return _enlarged_latents(
        np.stack([shrink_pixels(one, *lower_size) for one in pixels_bhwc]), (height, width), autoencoder
    )


def _enlarged_latents(small_bhwc: np.ndarray, size: tuple[int, int], autoencoder: Any) -> Tensor:
    return in_parts(lambda part: lower_latents(autoencoder, to_unit(part, autoencoder.device), *size), small_bhwc)


def in_parts(compute: Callable[[np.ndarray], Tensor], batch_b: np.ndarray) -> Tensor:
    """`compute` of the batch at once, or of its halves where the device has not the memory for that.

    Raises:
        UserError: it has not the memory for one image either.
    """
    try:
        return compute(batch_b)
    except torch.OutOfMemoryError as error:
        if len(batch_b) == 1:
            height, width = batch_b.shape[1:3]
            raise UserError(
                f"The autoencoder runs out of device memory with one image of {height}x{width} px; encode smaller images, "
                f"or use a device with more free memory."
            ) from error
    middle = len(batch_b) // 2
    return torch.cat([in_parts(compute, batch_b[:middle]), in_parts(compute, batch_b[middle:])])


def to_bytes(tensor: Tensor) -> bytes:
    """Half-precision little-endian bytes of a tensor, row-major."""
    return tensor.to(torch.float16).contiguous().cpu().numpy().tobytes()
