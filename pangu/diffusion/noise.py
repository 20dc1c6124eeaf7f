"""A noise level, and what a noisy sample, clean data and a prediction say of one another there. Pure.

A noisy sample is z = signal z0 + sigma eps. Every kind of prediction is affine in z and z0, so one pair of coefficients per level
turns any prediction into clean data, noise and back, whatever the schedule. A level is two numbers, or two tensors (B,) with a
number for each sample of a batch; samples are (B, C, H, W), or any shape.
"""

import math
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor

Number = TypeVar("Number", float, Tensor)
PredictionKind = Literal["epsilon", "v_prediction", "sample", "flow_prediction", "edm_epsilon", "edm_v_prediction"]


@dataclass(frozen=True)
class NoiseLevel(Generic[Number]):
    """How much of z is signal and how much is noise: z = signal z0 + sigma eps, both at least 0.

    Variance-preserving models have signal^2 + sigma^2 = 1, variance-exploding ones signal = 1, flow matching signal + sigma = 1.
    """

    signal: Number
    sigma: Number

    @property
    def log_snr(self) -> Number:
        """ln(signal^2 / sigma^2); minus infinity for pure noise, infinity for none."""
        if isinstance(self.signal, Tensor):
            return 2 * (self.signal.log() - self.sigma.log())
        if self.sigma <= 0:
            return math.inf
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


def add_noise(clean: Tensor, noise: Tensor, level: NoiseLevel) -> Tensor:
    """z = signal z0 + sigma eps (PanGu-Draw, Eq. 1; with fresh noise also Algorithm 1, part 2)."""
    return _shaped(level.signal, clean) * clean + _shaped(level.sigma, clean) * noise


def training_target(clean: Tensor, noise: Tensor, level: NoiseLevel, prediction: Prediction) -> Tensor:
    """What the network is asked to predict: the noise (PanGu-Draw, Eq. 2), the clean sample, the flow eps - z0, or the velocity
    signal eps - sigma z0, which is that of variance-preserving levels. Defined at every level, pure noise and none included."""
    match prediction.kind:
        case "epsilon":
            return noise
        case "sample":
            return clean
        case "flow_prediction":
            return noise - clean
        case "v_prediction":
            return _shaped(level.signal, clean) * noise - _shaped(level.sigma, clean) * clean
    raise ValueError(f"no network is trained to predict {prediction.kind}")


def coefficients(level: NoiseLevel, prediction: Prediction) -> tuple[Any, Any]:
    """(of_noisy, of_clean), with prediction = of_noisy z + of_clean z0 at that level; needs sigma > 0."""
    signal, sigma, norm = level.signal, level.sigma, _norm(level)
    match prediction.kind:
        case "epsilon":
            return 1 / sigma, -signal / sigma
        case "v_prediction":
            return signal / (sigma * norm), -norm / sigma
        case "sample":
            return 0.0, 1.0
        case "flow_prediction":
            return 1 / sigma, -(signal + sigma) / sigma
    skip, out = _edm(level, prediction)
    return -skip / (signal * out), 1 / out


def clean_coefficients(level: NoiseLevel, prediction: Prediction) -> tuple[Any, Any]:
    """(of_noisy, of_predicted), with z0_hat = of_noisy z + of_predicted prediction; predicted noise needs signal > 0."""
    signal, sigma, norm = level.signal, level.sigma, _norm(level)
    match prediction.kind:
        case "epsilon":
            return 1 / signal, -sigma / signal
        case "v_prediction":
            return signal / norm**2, -sigma / norm
        case "sample":
            return 0.0, 1.0
        case "flow_prediction":
            return 1 / (signal + sigma), -sigma / (signal + sigma)
    skip, out = _edm(level, prediction)
    return skip / signal, out


def clean_from_prediction(noisy: Tensor, predicted: Tensor, level: NoiseLevel, prediction: Prediction) -> Tensor:
    """z0_hat, any shape; for predicted noise PanGu-Draw, Eq. 3. Predicted noise needs signal > 0."""
    of_noisy, of_predicted = clean_coefficients(level, prediction)
    return _shaped(of_noisy, noisy) * noisy + _shaped(of_predicted, noisy) * predicted


def noise_from_prediction(noisy: Tensor, predicted: Tensor, level: NoiseLevel, prediction: Prediction) -> Tensor:
    """eps_hat, any shape; predicted velocities and flows give it at every level, others need sigma > 0."""
    signal, sigma, norm = level.signal, level.sigma, _norm(level)
    match prediction.kind:
        case "epsilon":
            return predicted
        case "v_prediction":
            of_noisy, of_predicted = sigma / norm**2, signal / norm
        case "flow_prediction":
            of_noisy, of_predicted = 1 / (signal + sigma), signal / (signal + sigma)
        case _:
            clean_noisy, clean_predicted = clean_coefficients(level, prediction)
            of_noisy, of_predicted = (1 - signal * clean_noisy) / sigma, -signal * clean_predicted / sigma
    return _shaped(of_noisy, noisy) * noisy + _shaped(of_predicted, noisy) * predicted


def prediction_from_clean(noisy: Tensor, clean: Tensor, level: NoiseLevel, prediction: Prediction) -> Tensor:
    """What a network would have predicted for that clean data, any shape; for predicted noise the inverse of Eq. 3."""
    of_noisy, of_clean = coefficients(level, prediction)
    return _shaped(of_noisy, noisy) * noisy + _shaped(of_clean, noisy) * clean


def carried(noisy: Tensor, predicted: Tensor, level: NoiseLevel, other: NoiseLevel, prediction: Prediction) -> Tensor:
    """The sample at `other` that a prediction at `level` leads to: DDIM without noise (arXiv 2010.02502, Eq. 12), any shape."""
    clean = clean_from_prediction(noisy, predicted, level, prediction)
    return add_noise(clean, noise_from_prediction(noisy, predicted, level, prediction), other)


def clean_between(noisy: Tensor, other_noisy: Tensor, level: NoiseLevel, other: NoiseLevel) -> Tensor:
    """The z0 of which both samples are noisy ones with one noise, any shape; the levels must differ."""
    scale = level.signal * other.sigma - level.sigma * other.signal
    return _shaped(other.sigma / scale, noisy) * noisy - _shaped(level.sigma / scale, noisy) * other_noisy


def rescaled(noisy: Tensor, level: NoiseLevel, other: NoiseLevel) -> Tensor:
    """The same sample in the scale of another schedule at the same signal-to-noise ratio, or at the nearest one that it has.

    The noise keeps its share; the signal does where the other schedule has no level as clean as that.
    """
    if not isinstance(level.sigma, Tensor):
        if level == other:
            return noisy
        return noisy * (other.signal / level.signal if _cleaner(level, other) else other.sigma / level.sigma)
    scale = torch.where(_cleaner(level, other), other.signal / level.signal, other.sigma / level.sigma)
    return noisy * _shaped(scale, noisy)


def clean_here(noisy: Tensor, clean: Tensor, level: NoiseLevel, other: NoiseLevel) -> Tensor:
    """z0_hat of a sample at `level` from that which a network gave at `other`, the level nearest to it that it knows.

    The same at one signal-to-noise ratio. Of a sample that is cleaner than all that the network knows, the score is kept: z0_hat
    is the less far from the sample, the less noise there is.
    """
    beyond = _cleaner(level, other)
    if not bool(beyond.any() if isinstance(beyond, Tensor) else beyond):
        return clean
    share = (level.sigma * other.signal / (level.signal * other.sigma)) ** 2
    if isinstance(beyond, Tensor):
        share = torch.where(beyond, share, torch.ones_like(share))
        found = noisy / _shaped(level.signal, noisy)
        return torch.where(_shaped(share, noisy) < 1, torch.lerp(found, clean, _shaped(share, noisy)), clean)
    return torch.lerp(noisy / level.signal, clean, share)


def _cleaner(level: NoiseLevel, other: NoiseLevel) -> Any:
    """Whether there is less noise at a level than at another one, by more than rounding."""
    return level.log_snr > other.log_snr + 1e-3


def _norm(level: NoiseLevel) -> Any:
    """sqrt(signal^2 + sigma^2)."""
    return (level.signal**2 + level.sigma**2) ** 0.5


def _edm(level: NoiseLevel, prediction: Prediction) -> tuple[Any, Any]:
    """c_skip and c_out of EDM (arXiv 2206.00364, Table 1), the latter with the sign of the kind."""
    exploding, data = level.sigma / level.signal, prediction.sigma_data
    out = exploding * data / (exploding**2 + data**2) ** 0.5
    return data**2 / (exploding**2 + data**2), -out if prediction.kind == "edm_v_prediction" else out


def _shaped(value: Any, like: Tensor) -> Any:
    """A number as it is; (B,) values so that they multiply `like`."""
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    beside = like.device.type != "cpu"  # nobody waits for a device that few numbers are sent to
    return value.reshape(-1, *[1] * (like.ndim - 1)).to(like.device, like.dtype, non_blocking=beside)
