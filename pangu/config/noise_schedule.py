"""The noise schedule."""

import math
from typing import Literal

from pydantic import Field

from pangu.config.tree import Frozen

LEAST_NOISE, LEAST_SIGNAL = 2**-21, 1e-30
"""Of beta at any timestep and of alpha_bar at the last: what float32 tells from nothing, and divides by the root of."""


class NoiseSchedule(Frozen):
    """The forward process of PanGu-Draw, Eq. 1, and what the network predicts."""

    num_train_timesteps: int = Field(1000, ge=2, description="T: number of discrete noise levels")
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    beta_start: float = Field(0.00085, gt=0, lt=1)
    beta_end: float = Field(0.012, gt=0, lt=1)
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    rescale_betas_zero_snr: bool = Field(
        False, description="Make the last step pure noise (arXiv 2305.08891); needs v_prediction"
    )

    def betas(self) -> list[float]:
        """Noise added at each timestep, before any rescaling, in double precision; `pangu.diffusion.noise` has the tensors."""
        total = self.num_train_timesteps
        if self.beta_schedule == "squaredcos_cap_v2":
            root = [math.cos((i / total + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(total + 1)]
            return [min(1 - root[i + 1] / root[i], 0.999) for i in range(total)]
        power = 1 if self.beta_schedule == "linear" else 2
        low, high = self.beta_start ** (1 / power), self.beta_end ** (1 / power)
        return [(low + (high - low) * i / (total - 1)) ** power for i in range(total)]

    def trouble(self) -> str:
        """Why nothing can be trained or drawn with these noise levels, in one sentence without its full stop, or ""."""
        if self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            return (
                "schedule.rescale_betas_zero_snr makes the last timestep pure noise, from which a predicted noise "
                "(prediction_type: epsilon) tells nothing of the image; set prediction_type to v_prediction"
            )
        betas = self.betas()
        if min(betas) < LEAST_NOISE:
            return (
                f"schedule adds {min(betas):.3g} of noise at one of its timesteps, which float32 cannot tell from none; raise "
                f"beta_start or beta_end, or lower num_train_timesteps"
            )
        signal = math.exp(math.fsum(math.log1p(-beta) for beta in betas))
        if signal < LEAST_SIGNAL:
            return (
                f"schedule leaves alpha_bar = {signal:.3g} at the last timestep, too little for float32; lower beta_end or "
                f"num_train_timesteps"
            )
        return ""
