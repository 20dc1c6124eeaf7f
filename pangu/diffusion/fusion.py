"""The equations of Coop-Diffusion (PanGu-Draw, Algorithm 1), for models of any noise schedule and prediction type. Pure.

A noisy sample is z = signal z0 + sigma eps. Every kind of prediction is affine in z and z0, so one pair of coefficients per noise
level turns any prediction into clean data and back. Models with other schedules are asked at the same signal-to-noise ratio, at
which their noisy samples differ by a factor alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Weight = float | Tensor
"""d of Eq. 5: a number in [0, 1], or a spatial mask that broadcasts over (B, C, H, W)."""

PredictionKind = Literal["epsilon", "v_prediction", "sample", "flow_prediction", "edm_epsilon", "edm_v_prediction"]


@dataclass(frozen=True)
class NoiseLevel:
    """How much of z is signal and how much is noise: z = signal z0 + sigma eps, with signal >= 0 and sigma > 0.

    Variance-preserving models have signal^2 + sigma^2 = 1, variance-exploding ones signal = 1, flow matching signal + sigma = 1.
    """

    signal: float
    sigma: float

    @property
    def log_snr(self) -> float:
        """ln(signal^2 / sigma^2); minus infinity for pure noise."""
        return 2 * math.log(self.signal / self.sigma) if self.signal > 0 else -math.inf


@dataclass(frozen=True)
class Prediction:
    """What a network predicts.

    kind:       the noise eps; the velocity v of the variance-preserving sample (arXiv 2202.00512); the clean sample z0; the
                flow eps - z0 (arXiv 2210.02747); or the preconditioned output of EDM (arXiv 2206.00364, Eq. 7), in both signs.
    sigma_data: the spread of the data, for EDM alone.
    """

    kind: PredictionKind
    sigma_data: float = 1.0


def coefficients(level: NoiseLevel, prediction: Prediction) -> tuple[float, float]:
    """(of_noisy, of_clean), with prediction = of_noisy z + of_clean z0 at that level."""
    signal, sigma = level.signal, level.sigma
    match prediction.kind:
        case "epsilon":
            return 1 / sigma, -signal / sigma
        case "v_prediction":
            norm = math.hypot(signal, sigma)
            return signal / (sigma * norm), -norm / sigma
        case "sample":
            return 0.0, 1.0
        case "flow_prediction":
            return 1 / sigma, -(signal + sigma) / sigma
        case "edm_epsilon" | "edm_v_prediction":
            exploding, data = sigma / signal, prediction.sigma_data
            skip = data**2 / (exploding**2 + data**2)
            out = exploding * data / math.hypot(exploding, data)
            out = -out if prediction.kind == "edm_v_prediction" else out
            return -skip / (signal * out), 1 / out


def clean_from_prediction(noisy: Tensor, predicted: Tensor, level: NoiseLevel, prediction: Prediction) -> Tensor:
    """z0_hat, any shape; for predicted noise PanGu-Draw, Eq. 3. Predicted noise needs signal > 0."""
    of_noisy, of_clean = coefficients(level, prediction)
    return (predicted - of_noisy * noisy) / of_clean


def prediction_from_clean(noisy: Tensor, clean: Tensor, level: NoiseLevel, prediction: Prediction) -> Tensor:
    """What a network would have predicted for that clean data, any shape; for predicted noise the inverse of Eq. 3."""
    of_noisy, of_clean = coefficients(level, prediction)
    return of_noisy * noisy + of_clean * clean


def rescaled(noisy: Tensor, level: NoiseLevel, other: NoiseLevel) -> Tensor:
    """The same sample in the scale of another schedule at the same signal-to-noise ratio: the noise keeps its share."""
    return noisy if level == other else noisy * (other.sigma / level.sigma)


def renoised(clean: Tensor, noise: Tensor, level: NoiseLevel) -> Tensor:
    """z = signal z0 + sigma eps with fresh noise (PanGu-Draw, Eq. 1 and Algorithm 1, part 2)."""
    return level.signal * clean + level.sigma * noise


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
