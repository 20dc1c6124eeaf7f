"""The noise levels that a network is trained at, as functions of its own timestep.

The timestep is what the network is told, after any shift: an index in [0, T) of a variance-preserving schedule, or T times the
share of noise in a flow-matching one. Levels of different schedules that have one log-SNR are the same level.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pangu.config import NoiseSchedule
from pangu.diffusion.noise import NoiseLevel, Number, Prediction


class TrainingLevels(Protocol):
    """Noise levels by timestep, and back."""

    @property
    def prediction(self) -> Prediction:
        """What the network is trained to predict."""
        ...

    def level(self, timestep_b: Tensor) -> NoiseLevel[Tensor]:
        """Signal and noise (B,) at timesteps (B,), on their device: float32 at integers, else in their dtype."""
        ...

    def timestep(self, log_snr: float) -> float:
        """The timestep in [0, T] of that log-SNR, the inverse of `level`; the nearest end beyond the schedule's own range."""
        ...

    def to(self, device: torch.device) -> "TrainingLevels":
        """The same with its tables on `device`."""
        ...


@dataclass(frozen=True, eq=False)
class DiscreteLevels:
    """T variance-preserving levels: signal^2 = alpha_bar, sigma^2 = 1 - alpha_bar. alpha_bar_t: (T,) float32."""

    prediction: Prediction
    alpha_bar_t: Tensor

    def level(self, timestep_b: Tensor) -> NoiseLevel[Tensor]:
        if not timestep_b.is_floating_point():
            alpha_bar = self.alpha_bar_t[timestep_b]
            return NoiseLevel(alpha_bar.sqrt(), (1 - alpha_bar).sqrt())
        alpha_bar = self._between(timestep_b)  # in double precision, because 1 - alpha_bar is small where it is near 1
        return NoiseLevel(alpha_bar.sqrt().to(timestep_b.dtype), (1 - alpha_bar).sqrt().to(timestep_b.dtype))

    def _between(self, timestep_b: Tensor) -> Tensor:
        """Between two indices the noise-to-signal ratio is linear, as in diffusers' schedulers that interpolate."""
        table, t = self.alpha_bar_t.double(), timestep_b.double()
        low = t.floor().long().clamp(0, len(table) - 1)
        high = (low + 1).clamp(max=len(table) - 1)
        ratio_low, ratio_high = (((1 - table[at]) / table[at]).sqrt() for at in (low, high))
        between = 1 / (1 + torch.lerp(ratio_low, ratio_high, t - low) ** 2)
        return torch.where((t == low) | (low == high), table[low], between)

    def timestep(self, log_snr: float) -> float:
        table = self.alpha_bar_t.double().cpu().numpy()
        with np.errstate(divide="ignore"):
            ratios = np.sqrt((1 - table) / table)
        wanted, known = math.exp(min(-log_snr / 2, 700.0)), np.isfinite(ratios)
        if not known[-1] and wanted > ratios[known][-1]:
            return float(len(table) - 1)  # of zero terminal SNR: above the last but one there is pure noise alone
        return float(np.interp(wanted, ratios[known], np.flatnonzero(known)))

    def to(self, device: torch.device) -> "DiscreteLevels":
        return DiscreteLevels(self.prediction, self.alpha_bar_t.to(device))


@dataclass(frozen=True)
class ContinuousLevels:
    """Flow matching on straight lines (arXiv 2210.02747): z = (1 - t / T) z0 + t / T eps, for every t in [0, T].

    least: the lowest timestep that `timestep` gives.
    """

    prediction: Prediction
    num_train_timesteps: int
    least: float = 0.0

    def level(self, timestep: Number) -> NoiseLevel[Number]:
        """Of timesteps (B,) on their device, or of one number."""
        sigma = timestep / self.num_train_timesteps  # of whole timesteps float32, too
        return NoiseLevel(1 - sigma, sigma)

    def timestep(self, log_snr: float) -> float:
        return max(self.num_train_timesteps / (1 + math.exp(min(max(log_snr / 2, -700.0), 700.0))), self.least)

    def to(self, device: torch.device) -> "ContinuousLevels":
        return self


def training_levels(schedule: NoiseSchedule) -> TrainingLevels:
    """The noise levels of a recipe's or a contract's schedule."""
    prediction = Prediction(schedule.prediction_type)
    if schedule.is_flow:
        return ContinuousLevels(prediction, schedule.num_train_timesteps)
    return DiscreteLevels(prediction, alpha_bars(schedule))


def level_at(schedule: NoiseSchedule, t: float) -> NoiseLevel[float]:
    """The level at one timestep, which may lie between two indices."""
    level = training_levels(schedule).level(torch.tensor([t], dtype=torch.float64))
    return NoiseLevel(float(level.signal), float(level.sigma))


def equal_level(t: float, theirs: NoiseSchedule, ours: NoiseSchedule) -> float:
    """The timestep of one schedule, or the nearest end, at which the log-SNR is that of `t` of the other one."""
    return training_levels(ours).timestep(level_at(theirs, t).log_snr)


def converted(timestep_n: Tensor, theirs: NoiseSchedule, ours: NoiseSchedule) -> Tensor:
    """Whole timesteps (N,) of one schedule in another: the first of its own that is at least as noisy, its last if none is.

    Timestep 0 stays what it is: no limit.
    """
    if torch.equal(signal_shares(theirs), signal_shares(ours)):
        return timestep_n
    known, place = timestep_n.unique(return_inverse=True)
    levels, last = training_levels(ours), ours.num_train_timesteps - 1
    told = known.clamp(max=theirs.num_train_timesteps - 1)
    log_snrs = training_levels(theirs).level(told).log_snr.double().tolist()
    # A little less, because levels are float32: a timestep must not become the next one by rounding.
    found = [min(max(math.ceil(levels.timestep(log_snr) - 0.01), 1), last) for log_snr in log_snrs]
    return torch.where(known == 0, 0, torch.tensor(found, dtype=timestep_n.dtype))[place]


def signal_shares(schedule: NoiseSchedule) -> Tensor:
    """signal^2 / (signal^2 + sigma^2) at every whole timestep, (T,) float32, falling: alpha_bar, and what it is of flows."""
    level = training_levels(schedule).level(torch.arange(schedule.num_train_timesteps))
    power = level.signal**2
    return alpha_bars(schedule) if not schedule.is_flow else power / (power + level.sigma**2)


def alpha_bars(schedule: NoiseSchedule) -> Tensor:
    """Cumulative signal level alpha_bar of every timestep index, (T,) float32, falling from nearly 1 towards 0."""
    return (1 - betas(schedule)).cumprod(0)


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
