"""In which noise levels the `min_timestep` of a version's rows is told: what another recipe needs to make use of it."""

from pydantic import Field

from pangu.config import AutoencoderSource, Frozen, NoiseSchedule
from pangu.data.table.delta import history
from pangu.storage import Home

FACT = "admission"
"""Of a version, in the log of its dataset."""


class AdmissionLevels(Frozen):
    """What the lowest timesteps of upscaled rows were estimated in, or named for."""

    schedule: NoiseSchedule
    autoencoder: AutoencoderSource | None = Field(
        None, description="In whose latents; null: in pixels, or not estimated but a constant"
    )


def admission_of(home: Home, name: str, version: int) -> AdmissionLevels | None:
    """Of one version; None where its log does not say: of versions that were made before it did, or long ago."""
    told = (entry.get(f"pangu.{FACT}") for entry in history(home, name) if entry["version"] == version)
    fact = next(told, None)
    return AdmissionLevels.model_validate_json(fact) if fact else None
