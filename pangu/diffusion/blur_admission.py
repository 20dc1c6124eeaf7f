"""From which timestep on noise hides what upscaling lost, so that a blurry image teaches nothing false there.

Truth, where the original is known: `hiding_noise` of the difference of latents. Estimate, where it is not: a line in the
logarithms of the image's own spectrum, fitted where the truth is known. Ours; PanGu-Draw (Section 3.2) only argues that
noisy steps never see the detail. Pure.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pangu.config import Frozen

Floats = npt.NDArray[np.float64]

VISIBLE_SHARE = 0.1
"""Of the lost detail's power. A half is where noise and detail are equally strong; a tenth leaves room for networks that guess
better than the linear denoiser of `visible_detail`, because edges are no Gaussian noise."""
LEVELS = (-25.0, 25.0)
"""Bounds of the logarithm of noise over signal; no schedule goes further."""
LOOKED_AT = 512
"""Side of the central part of an image whose spectrum is looked at, px; powers per mode do not depend on it."""
SILENCE = 1e-9
"""Added to powers before their logarithm: rounding of 8-bit pixels, as a share of white noise of power 1, lies far above."""


def dct_matrix(size: int) -> Tensor:
    """The orthonormal DCT-II, (size, size) float64: row k holds the cosine of frequency k."""
    index = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * (index[None] + 0.5) * index[:, None]) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


def frequencies(latents_nchw: Tensor) -> Tensor:
    """The two-dimensional DCT of each channel, (N, C, H, W) float64: white noise stays white, position becomes frequency."""
    height, width = latents_nchw.shape[-2:]
    return dct_matrix(height) @ latents_nchw.double() @ dct_matrix(width).T


def mode_powers(lost_nchw: Tensor) -> Tensor:
    """Mean power of each independent mode of latent differences, (H * W * C,) float64, against noise of power 1.

    Modes are frequencies along the sides and principal axes across channels, because autoencoders keep fine detail in
    channels as well as in positions.
    """
    spectrum = frequencies(lost_nchw).permute(2, 3, 0, 1)
    second_moment = spectrum.transpose(-1, -2) @ spectrum / len(lost_nchw)
    return torch.linalg.eigvalsh(second_moment).clamp_min(0).flatten()


def visible_detail(power_m: Tensor, alpha_bar_t: Tensor) -> Floats:
    """The share of the lost detail's power that z_t still shows, (T,) in [0, 1], falling with t.

    sum_m p_m w_m / sum_m p_m, with the Wiener gain w_m = ab p_m / (ab p_m + 1 - ab): what the best linear denoiser recovers
    from z_t if everything but the detail is known to it. Ours; the gain is the textbook's.
    """
    power, alpha_bar = power_m.double()[None], alpha_bar_t.double()[:, None]
    if not float(power.sum()) > 0:
        return np.zeros(len(alpha_bar_t))
    gain = alpha_bar * power / (alpha_bar * power + 1 - alpha_bar)
    return ((power * gain).sum(1) / power.sum()).numpy()


def detail_mark(visible_t: Floats, share: float = VISIBLE_SHARE) -> int:
    """The first timestep at which no more than `share` of the lost detail is visible; T if there is none."""
    hidden = np.flatnonzero(visible_t <= share)
    return int(hidden[0]) if len(hidden) else len(visible_t)


def hiding_noise(lost_nchw: Tensor, share: float = VISIBLE_SHARE) -> Floats:
    """Logarithm of noise over signal from which on noise hides each image's lost detail, (N,).

    lost_nchw: latents of enlarged images minus those of their originals, all enlarged by one factor. They share the modes of
    `mode_powers`, and each has a power of its own, as if its contrast were known: level = log(own / mean power) - log r, with r
    the signal over noise at which `share` of the detail is visible in the mean.
    """
    power = mode_powers(lost_nchw)
    own = lost_nchw.double().square().sum((1, 2, 3))
    if not float(own.sum()) > 0:
        return np.full(len(lost_nchw), LEVELS[0])
    # Bisection over log r: the share is a sum of r p / (r p + 1), which rises with r.
    low, high = LEVELS[0], -LEVELS[0]
    for _ in range(60):
        middle = (low + high) / 2
        gain = math.exp(middle) * power / (math.exp(middle) * power + 1)
        low, high = (middle, high) if float((power * gain).sum() / power.sum()) <= share else (low, middle)
    relative = (own / own.mean()).clamp_min(math.exp(LEVELS[0])).log().numpy()
    return np.clip(relative - low, *LEVELS)


def log_noise(alpha_bar_t: Tensor) -> Floats:
    """Logarithm of noise over signal, log((1 - ab) / ab), of every timestep, (T,), rising."""
    alpha_bar = alpha_bar_t.double().clamp(1e-12, 1 - 1e-12).numpy()
    return np.log1p(-alpha_bar) - np.log(alpha_bar)


def first_noisier(level: float, alpha_bar_t: Tensor) -> int:
    """The first timestep whose log((1 - ab) / ab) reaches a level; T - 1 if none does."""
    levels = log_noise(alpha_bar_t)
    return min(int(np.searchsorted(levels, level)), len(levels) - 1)


def spectrum_features(image_hwc: npt.NDArray[np.uint8], factor: float) -> Floats:
    """What an upscaled image's own spectrum says about the detail that it lacks, (5,).

    1, the logarithm of the factor and its square, and the logarithms of the mean power per mode in the octave below the
    frequency that the small image could still hold, and in the half octave above it, where an upscaler can only guess. Pixels
    as [-1, 1], so that powers are against white noise of power 1; needs no network.
    """
    top, left = (max(0, side - LOOKED_AT) // 2 for side in image_hwc.shape[:2])
    centre = np.asarray(image_hwc[top : top + LOOKED_AT, left : left + LOOKED_AT], np.float64)
    grey = torch.from_numpy(centre.mean(2) / 127.5 - 1)
    power = frequencies(grey[None, None])[0, 0].square().numpy()
    height, width = power.shape
    radius = np.hypot(np.arange(height)[:, None] / height, np.arange(width)[None] / width)
    cut = 1 / factor
    below, above = (radius >= cut / 2) & (radius < cut), (radius >= cut) & (radius < cut * math.sqrt(2))
    return np.array([1.0, math.log(factor), math.log(factor) ** 2, _log_mean(power[below]), _log_mean(power[above])])


def _log_mean(power_k: Floats) -> float:
    return math.log(float(power_k.mean()) + SILENCE) if power_k.size else math.log(SILENCE)


class Estimator(Frozen):
    """log-noise = weights . features + margin; the timestep is the first one at least that noisy.

    margin: the residual that `confidence` of the images that were kept out of the fit do not exceed (split conformal prediction).
    """

    weights: tuple[float, ...]
    margin: float
    confidence: float
    images: int

    def min_timestep(self, features_k: Floats, alpha_bar_t: Tensor) -> int:
        """The estimate for one image, in [0, T)."""
        return first_noisier(float(features_k @ np.array(self.weights)) + self.margin, alpha_bar_t)


def fit(features_nk: Floats, log_noise_n: Floats, image_n: Any, confidence: float) -> Estimator:
    """The estimator for known cases; every other image is kept for the margin, whatever its factors.

    Args:
        features_nk: `spectrum_features` of N cases; log_noise_n: the level that hides each; image_n: which image each shows.
    """
    images = np.unique(image_n)
    fitted = np.isin(image_n, images[::2])
    # A little of the identity: with flat images all features of a kind are the same.
    inner = features_nk[fitted].T @ features_nk[fitted] + 1e-3 * np.eye(features_nk.shape[1])
    weights = np.linalg.solve(inner, features_nk[fitted].T @ log_noise_n[fitted])
    residuals = np.sort(log_noise_n[~fitted] - features_nk[~fitted] @ weights)
    rank = min(len(residuals), math.ceil(confidence * (len(residuals) + 1)))
    return Estimator(
        weights=tuple(map(float, weights)),
        margin=float(residuals[rank - 1]),
        confidence=confidence,
        images=len(images),
    )
