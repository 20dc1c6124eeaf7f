"""The equations of Coop-Diffusion (PanGu-Draw, Algorithm 1) that fuse what several models predict. Pure.

Models with other schedules are asked at the same signal-to-noise ratio; what a prediction says of the clean data there is in
`pangu.diffusion.noise`, whose names that a cooperation needs are here, too.
"""

from collections.abc import Sequence

from torch import Tensor

from pangu.diffusion.noise import (
    NoiseLevel,
    Prediction,
    PredictionKind,
    clean_from_prediction,
    clean_here,
    prediction_from_clean,
    rescaled,
)
from pangu.diffusion.noise import add_noise as renoised

__all__ = [
    "NoiseLevel",
    "Prediction",
    "PredictionKind",
    "Weight",
    "clean_from_prediction",
    "clean_here",
    "fuse",
    "prediction_from_clean",
    "remaining",
    "renoised",
    "rescaled",
    "without",
]

Weight = float | Tensor
"""d of Eq. 5: a number in [0, 1], or a spatial mask that broadcasts over (B, C, H, W)."""


def fuse(own: Tensor, others: Sequence[Tensor], weights: Sequence[Weight]) -> Tensor:
    """(1 - sum_k d_k) eps + sum_k d_k eps_k, any shape (PanGu-Draw, Eq. 5, which has one partner).

    Predictions of one kind at one level are affine in the clean data, so predictions and clean data fuse alike. A weight of
    exactly 0 leaves the bits of the rest untouched.
    """
    result, rest = own, remaining(weights)
    if not _is(rest, 1.0):
        result = rest * own
    for other, weight in zip(others, weights, strict=True):
        if not _is(weight, 0.0):
            result = result + weight * other
    return result


def remaining(weights: Sequence[Weight]) -> Weight:
    """1 - sum_k d_k, what the main model keeps."""
    rest: Weight = 1.0
    for weight in weights:
        rest = rest - weight
    return rest


def without(fused: Tensor, part: Tensor, weight: Weight) -> Tensor:
    """The fusion of all but one: (fused - d_k eps_k) / (1 - d_k); where d_k is 1, nothing is left and `fused` stands in."""
    if not isinstance(weight, Tensor):
        return fused if weight >= 1.0 else (fused - weight * part) / (1 - weight)
    alone = weight >= 1.0
    return ((fused - weight * part) / (1 - weight).masked_fill(alone, 1.0)).where(~alone, fused)


def _is(weight: Weight, value: float) -> bool:
    return not isinstance(weight, Tensor) and weight == value
