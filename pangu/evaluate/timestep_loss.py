"""The loss of a denoiser by timestep: on one set of latents, with one set of noises, for whichever network is asked.

Pure over its arguments.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from pangu.config import Frozen, NoiseSchedule
from pangu.diffusion.interval import TimeInterval
from pangu.diffusion.noise import NoiseLevel, Prediction, add_noise, clean_coefficients, training_target
from pangu.diffusion.training_levels import training_levels
from pangu.sampling.question import Denoiser

BATCH = 32


@dataclass(frozen=True)
class CleanLatents:
    """N clean latents (N, C, H, W), scaled for diffusion, with the text (N, S, C') and (N, P) of their captions."""

    latents_nchw: Tensor
    tokens_nsc: Tensor
    pooled_np: Tensor

    def __len__(self) -> int:
        return len(self.latents_nchw)


class BucketLoss(Frozen):
    """The mean loss over timesteps low <= t < high."""

    low: int
    high: int
    loss: float


def prediction_errors(
    denoiser: Denoiser,
    latents_bchw: Tensor,
    tokens_bsc: Tensor,
    pooled_bp: Tensor,
    timestep_b: Tensor,
    noise_bchw: Tensor,
    schedule: NoiseSchedule,
) -> Tensor:
    """Prediction minus what the network is asked to predict, (B, C, H, W): PanGu-Draw, Eq. 2, before the square."""
    levels = training_levels(schedule)
    level = levels.level(timestep_b)
    noisy = add_noise(latents_bchw, noise_bchw, level)
    target = training_target(latents_bchw, noise_bchw, level, levels.prediction)
    return denoiser(noisy, timestep_b, tokens_bsc, pooled_bp) - target


def losses(
    denoiser: Denoiser,
    latents_bchw: Tensor,
    tokens_bsc: Tensor,
    pooled_bp: Tensor,
    timestep_b: Tensor,
    noise_bchw: Tensor,
    schedule: NoiseSchedule,
) -> Tensor:
    """Squared error (B,) of each sample at its timestep, averaged over channels and pixels (PanGu-Draw, Eq. 2)."""
    errors = prediction_errors(denoiser, latents_bchw, tokens_bsc, pooled_bp, timestep_b, noise_bchw, schedule)
    return errors.square().flatten(1).mean(1)


def clean_errors(errors_bchw: Tensor, level: NoiseLevel[Tensor], prediction: Prediction) -> Tensor:
    """The error of the predicted clean latents z0_hat that a prediction error implies (PanGu-Draw, Eq. 3), same shape.

    -sigma / signal times the error of a predicted noise, -sigma times that of a predicted velocity or flow.
    """
    factor = clean_coefficients(level, prediction)[1]
    return factor.to(errors_bchw).reshape(-1, *[1] * (errors_bchw.ndim - 1)) * errors_bchw


def buckets(interval: TimeInterval, num_train_timesteps: int, count: int) -> list[TimeInterval]:
    """`count` equal parts of [0, T), those and those parts of them that lie in `interval`."""
    edges = {round(num_train_timesteps * index / count) for index in range(count + 1)} | {interval.low, interval.high}
    inside = sorted(edge for edge in edges if interval.low <= edge <= interval.high)
    return [TimeInterval(low, high) for low, high in pairwise(inside)]


def spread(interval: TimeInterval, count: int) -> Tensor:
    """(count,) int64 timesteps, evenly over `interval`: one for each image, so that a mean over images is one over t."""
    middle = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return (interval.low + middle * (interval.high - interval.low)).floor().long()


def common_noise(shape: Sequence[int], seed: int, low: int) -> Tensor:
    """Unit Gaussian noise that depends on the seed and the bucket alone, so that every network meets the same."""
    # Hashed, so that it is not by chance the noise that somebody drew from the plain seed.
    digest = hashlib.blake2b(f"timestep_loss/{seed}/{low}".encode(), digest_size=7).digest()
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(int.from_bytes(digest, "little")))


@torch.inference_mode()
def loss_by_bucket(
    denoiser: Denoiser, sample: CleanLatents, parts: Sequence[TimeInterval], schedule: NoiseSchedule, seed: int
) -> list[BucketLoss]:
    """The loss over each part of the timesteps: every image once per part, at timesteps spread over it."""
    found = []
    for part in parts:
        noise, timesteps = common_noise(sample.latents_nchw.shape, seed, part.low), spread(part, len(sample))
        values = [
            losses(
                denoiser,
                sample.latents_nchw[start : start + BATCH],
                sample.tokens_nsc[start : start + BATCH],
                sample.pooled_np[start : start + BATCH],
                timesteps[start : start + BATCH],
                noise[start : start + BATCH],
                schedule,
            )
            for start in range(0, len(sample), BATCH)
        ]
        found.append(BucketLoss(low=part.low, high=part.high, loss=float(torch.cat(values).mean())))
    return found


def mean_loss(parts: Sequence[BucketLoss]) -> float:
    """The loss over all parts together, each weighted by its number of timesteps."""
    return sum(part.loss * (part.high - part.low) for part in parts) / sum(part.high - part.low for part in parts)
