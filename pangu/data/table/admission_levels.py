"""In which noise levels the `min_timestep` of a version's rows is told: what another recipe needs to make use of it.

Imports with what computes alone, as manifests and contracts do.
"""

from pydantic import Field

from pangu.config import AutoencoderSource, Frozen, NoiseSchedule

FACT = "admission"
"""Of a version, in the log of its dataset."""


class AdmissionLevels(Frozen):
    """What the lowest timesteps of upscaled rows were estimated in, or named for."""

    schedule: NoiseSchedule
    autoencoder: AutoencoderSource | None = Field(
        None, description="In whose latents; null: in pixels, or not estimated but a constant"
    )
