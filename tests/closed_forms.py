"""The equations of variance-preserving levels as papers print them, in alpha_bar: what the package's one algebra must agree with.

Shapes: samples are (B, C, H, W), `alpha_bar_b` is (B,) with values in [0, 1].
"""

import torch
from torch import Tensor


def roots(alpha_bar_b: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(alpha_bar) and sqrt(1 - alpha_bar), shaped to multiply `like`."""
    shaped = alpha_bar_b.to(like.device, torch.float32).reshape(-1, *[1] * (like.ndim - 1))
    return shaped.sqrt().to(like.dtype), (1 - shaped).sqrt().to(like.dtype)


def add_noise(clean: Tensor, noise: Tensor, alpha_bar_b: Tensor) -> Tensor:
    """z_t = sqrt(ab) z0 + sqrt(1 - ab) eps (PanGu-Draw, Eq. 1)."""
    signal, sigma = roots(alpha_bar_b, clean)
    return signal * clean + sigma * noise


def clean_from_epsilon(noisy: Tensor, epsilon: Tensor, alpha_bar_b: Tensor) -> Tensor:
    """z0_hat = (z_t - sqrt(1 - ab) eps) / sqrt(ab) (PanGu-Draw, Eq. 3)."""
    signal, sigma = roots(alpha_bar_b, noisy)
    return (noisy - sigma * epsilon) / signal


def epsilon_from_clean(noisy: Tensor, clean: Tensor, alpha_bar_b: Tensor) -> Tensor:
    """eps = (z_t - sqrt(ab) z0) / sqrt(1 - ab), the inverse of PanGu-Draw, Eq. 3."""
    signal, sigma = roots(alpha_bar_b, noisy)
    return (noisy - signal * clean) / sigma


def velocity(clean: Tensor, noise: Tensor, alpha_bar_b: Tensor) -> Tensor:
    """v = sqrt(ab) eps - sqrt(1 - ab) z0 (arXiv 2202.00512, Section 2.4)."""
    signal, sigma = roots(alpha_bar_b, clean)
    return signal * noise - sigma * clean


def clean_from_velocity(noisy: Tensor, v: Tensor, alpha_bar_b: Tensor) -> Tensor:
    """z0_hat = sqrt(ab) z_t - sqrt(1 - ab) v."""
    signal, sigma = roots(alpha_bar_b, noisy)
    return signal * noisy - sigma * v


def epsilon_from_velocity(noisy: Tensor, v: Tensor, alpha_bar_b: Tensor) -> Tensor:
    """eps_hat = sqrt(ab) v + sqrt(1 - ab) z_t."""
    signal, sigma = roots(alpha_bar_b, noisy)
    return signal * v + sigma * noisy


def training_target(clean: Tensor, noise: Tensor, alpha_bar_b: Tensor, prediction_type: str) -> Tensor:
    """The noise (PanGu-Draw, Eq. 2) or the velocity."""
    return noise if prediction_type == "epsilon" else velocity(clean, noise, alpha_bar_b)


def alpha_bar_at(table_t: Tensor, t: float) -> float:
    """alpha_bar between two indices of a table (T,), with a linear noise-to-signal ratio."""
    table = table_t.double()
    low = min(int(t), len(table) - 1)
    high = min(low + 1, len(table) - 1)
    if t == low or low == high:
        return float(table[low])
    ratios = ((1 - table[[low, high]]) / table[[low, high]]).sqrt()
    return float(1 / (1 + torch.lerp(ratios[0], ratios[1], t - low) ** 2))
