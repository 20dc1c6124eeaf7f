"""`outside`: how much colour a drawing has where its original is white ground, far from every line. Pure."""

import cv2
import numpy as np
from PIL import Image

SIDE = 96
MARGIN = 4
"""px at `SIDE` px a side: so near to what the original has, soft edges and a line a little off are no fault."""
PAPER = 10
"""Of 255: what differs from white by no more is white."""
FRAME_SHARE = 0.9
"""Of the outermost pixels that are white in an original on white ground."""


def outside(drawn: Image.Image, original: Image.Image) -> float | None:
    """Mean distance from white, in [0, 1], of the drawn pixels farther than the margin from anything in the original.

    The distance of a pixel is that of its channel farthest from white. None: the original has no white ground, or nothing of it
    lies so far out. Lower is better.
    """
    found = ground(original)
    if found is None:
        return None
    pixels = np.asarray(drawn.convert("RGB").resize(original.size, Image.Resampling.BOX))
    return float(_from_white(pixels)[found].mean() / 255)


def ground(original: Image.Image) -> np.ndarray | None:
    """(H, W) bool: the white pixels farther than the margin from any other; None where there are none, or no white ground."""
    inked = _from_white(np.asarray(original.convert("RGB"))) > PAPER
    frame = np.concatenate([inked[0], inked[-1], inked[:, 0], inked[:, -1]])
    if 1 - frame.mean() < FRAME_SHARE:
        return None
    # A blank original has no pixel to be near to.
    away = cv2.distanceTransform((~inked).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    found = away > MARGIN * original.width / SIDE if inked.any() else ~inked
    return found if found.any() else None


def _from_white(pixels_hwc: np.ndarray) -> np.ndarray:
    """(H, W) from 0 to 255."""
    distance: np.ndarray = 255 - pixels_hwc.min(-1)
    return distance
