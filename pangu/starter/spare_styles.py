"""Looks that no artist of the list has, so that the embedded text encoder knows words for more styles than the pair draws.

A pair that is tuned to a style of one's own needs a prefix that the frozen text encoder tells apart, and it reads past words
that it has never met. Each look changes colours alone, by a linear map: it may be taken of a thumbnail as well as of a drawing.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

_GREY = (0.299, 0.587, 0.114)
Look = tuple[
    tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]],
    tuple[float, float, float],
]
SPARE_STYLES: Mapping[str, Look] = {
    "chalk": (((-0.6, 0, 0), (0, -0.6, 0), (0, 0, -0.6)), (-0.05, -0.02, -0.03)),
    "sketch": ((_GREY, _GREY, _GREY), (0, 0, 0)),
    "sepia": ((_GREY, tuple(0.9 * x for x in _GREY), tuple(0.7 * x for x in _GREY)), (0, -0.1, -0.3)),  # type: ignore[dict-item]
    "neon": (((-1, 0, 0), (0, -1, 0), (0, 0, -1)), (0, 0, 0)),
    "pastel": (((0.4, 0, 0), (0, 0.4, 0), (0, 0, 0.4)), (0.5, 0.5, 0.55)),
}
"""Prefix of captions -> (matrix of RGB to RGB, what is added), for pixels in [-1, 1]."""


def looked(pixels_nchw: Tensor, style: str) -> Tensor:
    """(N, 3, H, W) in about [-1, 1] in one of `SPARE_STYLES`."""
    matrix, added = (torch.tensor(part, dtype=pixels_nchw.dtype) for part in SPARE_STYLES[style])
    return torch.einsum("ij,njhw->nihw", matrix, pixels_nchw) + added[:, None, None]
