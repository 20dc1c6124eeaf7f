"""What a step says of the clean image, and how a trajectory is entered in its middle. Pure over its arguments.

Any object with diffusers' scheduler interface serves; the noise levels are those of the schedule that the generators share.
"""

from dataclasses import replace

import torch
from torch import Tensor

from pangu.config import NoiseSchedule
from pangu.diffusion.noise import Prediction, add_noise, clean_from_prediction, noise_from_prediction
from pangu.diffusion.training_levels import level_at
from pangu.diffusion.trajectory import Step, Trajectory


def clean_estimate(step: Step, schedule: NoiseSchedule) -> Tensor:
    """z0_hat (B, C, H, W) of the step (PanGu-Draw, Eq. 3, or its form for what the schedule has predicted)."""
    level, prediction = level_at(schedule, step.timestep), Prediction(schedule.prediction_type)
    return clean_from_prediction(step.noisy_bchw, step.prediction_bchw, level, prediction)


def noise_estimate(step: Step, schedule: NoiseSchedule) -> Tensor:
    """eps_hat (B, C, H, W) of the step."""
    level, prediction = level_at(schedule, step.timestep), Prediction(schedule.prediction_type)
    return noise_from_prediction(step.noisy_bchw, step.prediction_bchw, level, prediction)


def start_from_clean(
    trajectory: Trajectory, schedule: NoiseSchedule, below: float, clean_bchw: Tensor, noise_bchw: Tensor
) -> Trajectory:
    """A trajectory at its first timestep below `below`, whose latents there are `clean_bchw` under `noise_bchw` (Eq. 1).

    With fresh noise this begins image-to-image (arXiv 2108.01073). With the estimates of a step at `below` it is the DDIM step
    (arXiv 2010.02502, Eq. 12 with eta = 0) to a timestep that the step's own scheduler may not have.
    `trajectory` gives everything else and must not have taken a step. If no timestep is left, the latents are `clean_bchw`.
    """
    timesteps = trajectory.timesteps.tolist()
    step = next((i for i, t in enumerate(timesteps) if t < below), len(timesteps))
    if step == len(timesteps):
        return replace(trajectory, latents_bchw=clean_bchw, step=step)
    # Of a second-order sampler's two visits to a timestep the first belongs to the step before.
    step += timesteps.count(timesteps[step]) - 1
    if hasattr(trajectory.scheduler, "set_begin_index"):
        trajectory.scheduler.set_begin_index(step)
    there = replace(trajectory, step=step)
    return replace(there, latents_bchw=noisy_at(there, schedule, clean_bchw, noise_bchw))


def noisy_at(trajectory: Trajectory, schedule: NoiseSchedule, clean_bchw: Tensor, noise_bchw: Tensor) -> Tensor:
    """`clean_bchw` under `noise_bchw` at the noise level of the next step, in the scale of the scheduler's samples."""
    t = trajectory.timesteps[trajectory.step]
    # Schedulers differ in the scale of their samples, but all say how one becomes the input of the network.
    unit = trajectory.scheduler.scale_model_input(torch.ones(1, device=clean_bchw.device), t)
    return add_noise(clean_bchw, noise_bchw, level_at(schedule, float(t))) / unit
