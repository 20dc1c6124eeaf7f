"""Keeping a part of an image while a sampler draws the rest: after every step the kept part is the image at that noise level.

Pure over its arguments, like the trajectory. As in RePaint (arXiv 2201.09865, Eq. 8) without its resampling.
"""

from dataclasses import dataclass, replace

from torch import Tensor

from pangu.diffusion.fusion import renoised
from pangu.sampling.trajectory import Trajectory


@dataclass(frozen=True)
class Kept:
    """What stays of an image.

    clean_bchw, noise_bchw: (B, C, H, W) its latents and the unit Gaussian noise that they are seen under.
    drawn_11hw: (1, 1, H, W), 1 where the sampler draws and 0 where the image stays.
    """

    clean_bchw: Tensor
    noise_bchw: Tensor
    drawn_11hw: Tensor


def with_kept(trajectory: Trajectory, kept: Kept) -> Trajectory:
    """The trajectory with the kept part put back, at the noise level of its next step; clean if there is none."""
    device = trajectory.latents_bchw.device
    clean, noise, drawn = (each.to(device) for each in (kept.clean_bchw, kept.noise_bchw, kept.drawn_11hw))
    known = clean if trajectory.finished else renoised(clean, noise, trajectory.level)
    return replace(trajectory, latents_bchw=drawn * trajectory.latents_bchw + (1 - drawn) * known)
