"""The forward process and its inverses, one equation a function. Pure.

Shapes: `latents_bchw` and everything like it is (B, C, H, W); `alpha_bar_b` is (B,) with values in (0, 1].
"""

import math

import torch
from torch import Tensor

from pangu.config import NoiseSchedule


def betas(schedule: NoiseSchedule) -> Tensor:
    """Noise added at each step, (T,) float32 in (0, 1), as diffusers' schedulers define them.

    With `rescale_betas_zero_snr`, shifted and scaled so that alpha_bar of the last step is 0 (arXiv 2305.08891, Alg. 1).
    """
    total, start, end = schedule.num_train_timesteps, schedule.beta_start, schedule.beta_end
    if schedule.beta_schedule == "linear":
        result = torch.linspace(start, end, total, dtype=torch.float32)
    elif schedule.beta_schedule == "scaled_linear":
        result = torch.linspace(start**0.5, end**0.5, total, dtype=torch.float32) ** 2
    else:
        result = _cosine_betas(total)
    return _zero_terminal_snr(result) if schedule.rescale_betas_zero_snr else result


def _cosine_betas(total: int) -> Tensor:
    """Improved DDPM (arXiv 2102.09672), Eq. 17: alpha_bar falls like a squared cosine."""

    def alpha_bar(part: float) -> float:
        return math.cos((part + 0.008) / 1.008 * math.pi / 2) ** 2

    return torch.tensor([min(1 - alpha_bar((i + 1) / total) / alpha_bar(i / total), 0.999) for i in range(total)])


def _zero_terminal_snr(betas_t: Tensor) -> Tensor:
    root = (1 - betas_t).cumprod(0).sqrt()
    first, last = root[0].clone(), root[-1].clone()
    alpha_bar = ((root - last) * first / (first - last)) ** 2
    return 1 - torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])


def alpha_bars(schedule: NoiseSchedule) -> Tensor:
    """Cumulative signal level alpha_bar of every timestep index, (T,) float32, falling from nearly 1 towards 0."""
    return (1 - betas(schedule)).cumprod(0)


def log_snr(alpha_bar: Tensor) -> Tensor:
    """Natural log of the signal-to-noise ratio alpha_bar / (1 - alpha_bar); any shape, alpha_bar in (0, 1)."""
    return torch.log(alpha_bar) - torch.log1p(-alpha_bar)


def _levels(alpha_bar_b: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(alpha_bar) and sqrt(1 - alpha_bar), shaped to multiply `like`."""
    shaped = alpha_bar_b.to(like.device, torch.float32).reshape(-1, *[1] * (like.ndim - 1))
    return shaped.sqrt().to(like.dtype), (1 - shaped).sqrt().to(like.dtype)


def add_noise(clean: Tensor, noise: Tensor, alpha_bar_b: Tensor) -> Tensor:
    """z_t = sqrt(ab) z0 + sqrt(1 - ab) eps (PanGu-Draw, Eq. 1)."""
    signal, sigma = _levels(alpha_bar_b, clean)
    return signal * clean + sigma * noise


def clean_from_epsilon(noisy: Tensor, epsilon: Tensor, alpha_bar_b: Tensor) -> Tensor:
    """z0_hat = (z_t - sqrt(1 - ab) eps) / sqrt(ab) (PanGu-Draw, Eq. 3); needs ab > 0."""
    signal, sigma = _levels(alpha_bar_b, noisy)
    return (noisy - sigma * epsilon) / signal


def epsilon_from_clean(noisy: Tensor, clean: Tensor, alpha_bar_b: Tensor) -> Tensor:
    """eps = (z_t - sqrt(ab) z0) / sqrt(1 - ab), the inverse of PanGu-Draw, Eq. 3; needs ab < 1."""
    signal, sigma = _levels(alpha_bar_b, noisy)
    return (noisy - signal * clean) / sigma


def velocity(clean: Tensor, noise: Tensor, alpha_bar_b: Tensor) -> Tensor:
    """v = sqrt(ab) eps - sqrt(1 - ab) z0 (arXiv 2202.00512, Section 2.4)."""
    signal, sigma = _levels(alpha_bar_b, clean)
    return signal * noise - sigma * clean


def clean_from_velocity(noisy: Tensor, v: Tensor, alpha_bar_b: Tensor) -> Tensor:
    """z0_hat = sqrt(ab) z_t - sqrt(1 - ab) v; defined for every ab in [0, 1]."""
    signal, sigma = _levels(alpha_bar_b, noisy)
    return signal * noisy - sigma * v


def epsilon_from_velocity(noisy: Tensor, v: Tensor, alpha_bar_b: Tensor) -> Tensor:
    """eps_hat = sqrt(ab) v + sqrt(1 - ab) z_t; defined for every ab in [0, 1]."""
    signal, sigma = _levels(alpha_bar_b, noisy)
    return signal * v + sigma * noisy


def training_target(clean: Tensor, noise: Tensor, alpha_bar_b: Tensor, prediction_type: str) -> Tensor:
    """What the network is asked to predict: the noise (PanGu-Draw, Eq. 2) or the velocity."""
    return noise if prediction_type == "epsilon" else velocity(clean, noise, alpha_bar_b)
