"""The noise schedule."""

import math
from typing import Literal

from pydantic import Field

from pangu.config.tree import Frozen

LEAST_NOISE, LEAST_SIGNAL = 2**-21, 1e-30
"""Of beta at any timestep and of alpha_bar at the last: what float32 tells from nothing, and divides by the root of."""

BETA_FIELDS = ("beta_schedule", "beta_start", "beta_end", "rescale_betas_zero_snr")
FLOW_FIELDS = (
    "shift", "use_dynamic_shifting", "base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len",
)  # fmt: skip


class NoiseSchedule(Frozen):
    """The forward process and what the network predicts, in diffusers' names.

    Epsilon and velocity are predicted over T discrete variance-preserving levels (PanGu-Draw, Eq. 1), flows over continuous ones,
    z = (1 - t / T) z0 + t / T eps (arXiv 2210.02747). `pangu.diffusion.training_levels` has the levels.
    """

    num_train_timesteps: int = Field(1000, ge=2, description="T: number of discrete noise levels")
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    beta_start: float = Field(0.00085, gt=0, lt=1)
    beta_end: float = Field(0.012, gt=0, lt=1)
    prediction_type: Literal["epsilon", "v_prediction", "flow_prediction"] = "epsilon"
    rescale_betas_zero_snr: bool = Field(
        False, description="Make the last step pure noise (arXiv 2305.08891); needs v_prediction"
    )
    # Of flows alone, and left out where they are the usual ones, so that digests of recipes stay what they were.
    shift: float = Field(
        1.0,
        ge=0.01,
        le=100,
        exclude_if=lambda value: value == 1.0,
        description="Flows: timesteps are at shift u / (1 + (shift - 1) u) of T, u in [0, 1] (arXiv 2403.03206, Eq. 23)",
    )
    use_dynamic_shifting: bool = Field(
        False,
        exclude_if=lambda value: not value,
        description="Flows: in place of `shift` exp(mu), with mu linear in the number of 2 x 2 patches of the latents",
    )
    base_shift: float = Field(
        0.5, ge=-4.6, le=4.6, exclude_if=lambda value: value == 0.5, description="mu at the base length"
    )
    max_shift: float = Field(
        1.15, ge=-4.6, le=4.6, exclude_if=lambda value: value == 1.15, description="mu at the full length"
    )
    base_image_seq_len: int = Field(
        256, ge=1, exclude_if=lambda value: value == 256, description="Patches, base length"
    )
    max_image_seq_len: int = Field(
        4096, ge=2, exclude_if=lambda value: value == 4096, description="Patches, full length"
    )

    @property
    def is_flow(self) -> bool:
        """Whether the levels are those of flow matching, continuous in t."""
        return self.prediction_type == "flow_prediction"

    def shift_at(self, height: int, width: int) -> float:
        """The shift for latents of that size; of a model that is no flow 1."""
        if not self.use_dynamic_shifting:
            return self.shift
        share = (height * width / 4 - self.base_image_seq_len) / (self.max_image_seq_len - self.base_image_seq_len)
        mu = self.base_shift + share * (self.max_shift - self.base_shift)
        return math.exp(min(max(mu, -4.6), 4.6))

    def betas(self) -> list[float]:
        """Noise added at each timestep, before any rescaling, double precision; `pangu.diffusion.training_levels` has tensors."""
        total = self.num_train_timesteps
        if self.beta_schedule == "squaredcos_cap_v2":
            root = [math.cos((i / total + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(total + 1)]
            return [min(1 - root[i + 1] / root[i], 0.999) for i in range(total)]
        power = 1 if self.beta_schedule == "linear" else 2
        low, high = self.beta_start ** (1 / power), self.beta_end ** (1 / power)
        return [(low + (high - low) * i / (total - 1)) ** power for i in range(total)]

    def trouble(self) -> str:
        """Why nothing can be trained or drawn with these noise levels, in one sentence without its full stop, or ""."""
        if self.is_flow:
            return self._trouble_of_flows()
        if foreign := self._set_among(*FLOW_FIELDS):
            return (
                f"schedule.{foreign} belongs to flow matching; leave it out, or set prediction_type to flow_prediction "
                f"instead of {self.prediction_type}"
            )
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

    def _trouble_of_flows(self) -> str:
        if foreign := self._set_among(*BETA_FIELDS):
            return f"schedule.{foreign} says how discrete levels are made, but flow_prediction has continuous ones; leave it out"
        if self.use_dynamic_shifting and self.shift != 1.0:
            return "schedule.use_dynamic_shifting takes the shift from the resolution; leave out schedule.shift"
        if self.max_image_seq_len <= self.base_image_seq_len:
            return (
                f"schedule.max_image_seq_len = {self.max_image_seq_len} must be above base_image_seq_len = "
                f"{self.base_image_seq_len}"
            )
        return ""

    def _set_among(self, *names: str) -> str:
        """The first of these fields that is not as usual, or ""."""
        usual = type(self).model_fields
        return next((name for name in names if getattr(self, name) != usual[name].default), "")
