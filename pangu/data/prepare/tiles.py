"""Enlarging an image part by part."""

from collections.abc import Callable

import numpy as np

from pangu.data.images import ImageHWC


def by_tiles(
    image_hwc: ImageHWC, factor: int, enlarge: Callable[[ImageHWC], ImageHWC], tile: int, seen: int
) -> ImageHWC:
    """Enlarge tile by tile, so that memory does not grow with the image.

    tile: side of a tile, px. seen: by how much tiles overlap, px: as far as the network can see.
    """
    height, width, _ = image_hwc.shape
    if max(height, width) <= tile + 2 * seen:
        return enlarge(image_hwc)
    result = np.empty((height * factor, width * factor, 3), np.uint8)
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            bottom, right = min(top + tile, height), min(left + tile, width)
            above, before = min(seen, top), min(seen, left)
            enlarged = enlarge(image_hwc[top - above : bottom + seen, left - before : right + seen])
            inner = enlarged[above * factor :, before * factor :][: (bottom - top) * factor, : (right - left) * factor]
            result[top * factor : bottom * factor, left * factor : right * factor] = inner
    return result
