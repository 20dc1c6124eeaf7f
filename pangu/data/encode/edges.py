"""Edge maps as control images: how they are found, kept at a bit per pixel, and shown to a ControlNet.

`edge_picture` makes for sampling exactly what training saw.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pangu.config import EdgeControl
from pangu.data.images import opened_rgb

EDGES = EdgeControl()


def find_edges(pixels_hwc: np.ndarray, control: EdgeControl = EDGES) -> np.ndarray:
    """(H, W) bool: the Canny edges of an (H, W, 3) uint8 image, over the strongest of its channels."""
    import cv2  # networks encode where it is not installed

    return cv2.Canny(np.ascontiguousarray(pixels_hwc), control.low_threshold, control.high_threshold) > 0


def edge_picture(image: Image.Image, control: EdgeControl = EDGES) -> Image.Image:
    """The edges of a picture, white on black, in its own size: a control image."""
    return Image.fromarray(find_edges(np.asarray(opened_rgb(image)), control)).convert("RGB")


def packed(edges_hw: np.ndarray) -> bytes:
    """Rows of edges at eight pixels a byte, each row padded to whole bytes."""
    return np.packbits(edges_hw, axis=-1).tobytes()


def packed_width(width: int) -> int:
    """Bytes of one row."""
    return -(-width // 8)


def unpacked(packed_bhn: np.ndarray, width: int) -> np.ndarray:
    """(B, H, W) bool from (B, H, bytes) uint8: the inverse of `packed`."""
    return np.unpackbits(packed_bhn, axis=-1, count=width).astype(bool)


def control_image(edges_bhw: np.ndarray) -> Tensor:
    """(B, 3, H, W) float16, 0 or 1: what a ControlNet gets, as diffusers prepares a white-on-black picture."""
    return torch.from_numpy(edges_bhw)[:, None].half().repeat(1, 3, 1, 1)


def agreement(found_hw: np.ndarray, wanted_hw: np.ndarray, tolerance_px: int = 1) -> float:
    """F1 in [0, 1] of two edge maps: an edge pixel counts as met if the other has one within `tolerance_px` (Chebyshev).

    1 where both are empty, 0 where one is.
    """
    if not found_hw.any() or not wanted_hw.any():
        return float(found_hw.any() == wanted_hw.any())
    import cv2

    around = np.ones((2 * tolerance_px + 1,) * 2, np.uint8)
    near_wanted, near_found = (cv2.dilate(edges.astype(np.uint8), around) > 0 for edges in (wanted_hw, found_hw))
    precision, recall = float(near_wanted[found_hw].mean()), float(near_found[wanted_hw].mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
