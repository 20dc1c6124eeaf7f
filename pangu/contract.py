"""The interval contract: what every generator carries, and what makes two generators a pair.

Travels as `contract.json` beside the weights of a generator. Trainer, pipeline, release and server all refuse what this
module refuses.
"""

from pathlib import Path

from pydantic import Field

from pangu.config import Frozen, NoiseSchedule, Role
from pangu.diffusion.interval import TimeInterval, check_partition
from pangu.diffusion.presets import PresetKind
from pangu.errors import UserError
from pangu.storage import read_json, write_json

CONTRACT_FILE = "contract.json"


class GeneratorContract(Frozen):
    """Role, interval and everything two generators must share to take turns in one trajectory."""

    role: Role
    low: int = Field(ge=0)
    high: int = Field(ge=1)
    schedule: NoiseSchedule
    autoencoder_hash: str
    text_encoder_hashes: tuple[str, ...]
    latent_scaling: float = Field(description="Latents are multiplied by this before noise is added")
    latent_shift: float = Field(0.0, description="Subtracted from latents before scaling")
    spatial_factor: int = Field(ge=1, description="Pixels per latent along one side")
    max_tokens: int
    resolution: int = Field(description="Pixels per side of the images it was trained on")
    presets: PresetKind = Field("square", description="The shapes around `resolution` that it was trained on")
    recipe: str
    recipe_digest: str
    dataset: str = ""
    dataset_version: int = -1
    trained_steps: int = 0

    @property
    def interval(self) -> TimeInterval:
        """In the timesteps that the generator's own network is told, which are those after any shift."""
        return TimeInterval(
            self.low, self.high, self.schedule.is_flow and self.high == self.schedule.num_train_timesteps
        )

    def save(self, folder: Path) -> None:
        write_json(folder / CONTRACT_FILE, self.model_dump(mode="json"))

    @classmethod
    def load(cls, folder: Path) -> "GeneratorContract":
        """Read the contract of a generator folder.

        Raises:
            UserError: there is none, so nobody can know which timesteps the generator may be asked for.
        """
        path = folder / CONTRACT_FILE
        if not path.is_file():
            raise UserError(
                f"{folder} has no {CONTRACT_FILE}, so its time interval is unknown; train it with `pangu train`."
            )
        return cls.model_validate(read_json(path))


SHARED = (
    "schedule",
    "autoencoder_hash",
    "text_encoder_hashes",
    "latent_scaling",
    "latent_shift",
    "spatial_factor",
    "max_tokens",
)


def check_pair(structure: GeneratorContract, texture: GeneratorContract) -> None:
    """Two contracts make a pair if their intervals partition [0, T) and everything shared is equal.

    Raises:
        UserError: a gap, an overlap or a mismatch; the sentence names both sides.
    """
    for contract, role in ((structure, "structure"), (texture, "texture")):
        if contract.role != role:
            raise UserError(f"The {role} side of the pair was given a generator whose role is '{contract.role}'.")
    check_partition(structure.interval, texture.interval, structure.schedule.num_train_timesteps)
    for name in SHARED:
        ours, theirs = getattr(structure, name), getattr(texture, name)
        if ours != theirs:
            raise UserError(f"The pair does not share one {name}: structure has {ours}, texture has {theirs}.")
