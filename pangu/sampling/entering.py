"""How a trajectory is entered in its middle: with clean latents under noise. Pure over its arguments."""

from dataclasses import replace

from torch import Tensor

from pangu.diffusion.fusion import renoised
from pangu.sampling.levels import begun_at
from pangu.sampling.trajectory import Trajectory


def start_from_clean(trajectory: Trajectory, below: float, clean_bchw: Tensor, noise_bchw: Tensor) -> Trajectory:
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
    there = replace(trajectory, scheduler=begun_at(trajectory.scheduler, step), step=step)
    return replace(there, latents_bchw=renoised(clean_bchw, noise_bchw, there.level))
