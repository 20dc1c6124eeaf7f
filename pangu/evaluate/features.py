"""The weight-free feature space `thumbnail-16`: the offline default, honest about being no more than small pictures.

It needs no network and no download, sees colour and layout, and is blind to texture finer than a sixteenth of the image.
Numbers in it compare pairs trained on one dataset; they are no FID and no CLIP score.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image

NAME: Literal["thumbnail-16"] = "thumbnail-16"
SIDE = 16


def thumbnails(images: Sequence[Image.Image]) -> np.ndarray:
    """(N, 16 * 16 * 3) float32 in [0, 1]: box-averaged RGB thumbnails."""
    small = [image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX) for image in images]
    return np.stack([np.asarray(image, dtype=np.float32).reshape(-1) / 255 for image in small])


def similarity(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """(Q, N) cosine similarity after subtracting the mean candidate, so that a common background counts for nothing."""
    mean = candidates.mean(0)
    return _unit(queries - mean) @ _unit(candidates - mean).T


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-8)
