"""The interval contract: what every generator carries, and what makes generators the experts of one trajectory.

An expert owns an interval of noise levels, written as the timesteps that its own network is asked at, after any shift. Experts
meet at equal log-SNR, in one latent space; what they predict, their noise levels, sizes and texts are each one's own.

Travels as `contract.json` beside the weights of a generator. Trainer, pipeline, release and server all refuse what this
module refuses.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from pangu.config import MIDDLE_ROLES, ROLES, Distillation, Frozen, NoiseSchedule, Role
from pangu.diffusion.expert_turns import Expert, check_experts, turns
from pangu.diffusion.interval import TimeInterval
from pangu.diffusion.presets import PresetKind
from pangu.diffusion.segments import segment_starts
from pangu.errors import UserError
from pangu.storage import read_json, write_json

CONTRACT_FILE = "contract.json"
FORMAT = 2
"""Of the contracts that are written. Those of before have no `format_version`: they share one schedule and one text, which is a
case of this format, so nothing else differs."""


Quantised = Literal["int8", "fp8", "nf4"]
"""What the weights of linear layers are kept in, where that is less than the network was trained in."""


class DistilledSteps(Frozen):
    """The steps that a distilled generator was made for: it knows no others, and has its guidance built in."""

    timesteps: tuple[int, ...] = Field(min_length=1, description="Of its own network, falling: where each step begins")
    guidance_scale: float = Field(description="Of its teacher")


class GeneratorContract(Frozen):
    """Role, interval, noise levels, latent space and texts of a generator."""

    format_version: int = Field(FORMAT, description="Of the contract itself")
    role: Role
    low: int = Field(ge=0)
    high: int = Field(ge=1)
    schedule: NoiseSchedule
    autoencoder_hash: str
    text_encoder_hashes: tuple[str, ...]
    placeholder_tokens: tuple[str, ...] = Field(
        (), exclude_if=lambda words: not words, description="Words that must have a token of their own in them"
    )
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
    distilled: DistilledSteps | None = Field(
        None, exclude_if=lambda value: value is None, description="None: it takes any number of steps"
    )
    quantised: Quantised | None = Field(
        None, exclude_if=lambda value: value is None, description="None: its weights are as they were trained"
    )

    @model_validator(mode="before")
    @classmethod
    def _of_this_format(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        found = given.get("format_version", 1)
        if found not in (1, FORMAT):
            raise ValueError(f"it is of format {found}, but this version of PanGu reads 1 and {FORMAT}; update PanGu")
        return given | {"format_version": FORMAT}

    @property
    def interval(self) -> TimeInterval:
        """In the timesteps that the generator's own network is told, which are those after any shift."""
        return TimeInterval(
            self.low, self.high, self.schedule.is_flow and self.high == self.schedule.num_train_timesteps
        )

    @property
    def expert(self) -> Expert:
        """What decides whose turn it is."""
        return Expert(self.role, self.interval, self.schedule)

    @property
    def reads(self) -> tuple[object, ...]:
        """What its network is told of a text: experts for which this is equal share one condition."""
        return self.text_encoder_hashes, self.max_tokens

    def words_beyond(self, known: Collection[str]) -> str:
        """Its placeholder tokens that are not among `known`, as a sentence lists them."""
        return ", ".join(sorted(set(self.placeholder_tokens) - set(known)))

    def of_student(self, settings: Distillation) -> "GeneratorContract":
        """That of a student of the same interval."""
        starts = segment_starts(self.interval, settings.steps)
        steps = DistilledSteps(timesteps=starts, guidance_scale=settings.guidance_scale)
        return self.model_copy(update={"distilled": steps})

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
        return cls.read(read_json(path), str(path))

    @classmethod
    def read(cls, given: Any, where: str) -> "GeneratorContract":
        """A contract as a file holds it; `where` begins the sentence.

        Raises:
            UserError: a newer PanGu wrote it.
            ValidationError: it is no contract.
        """
        check_format(given, where)
        return cls.model_validate(given)


def check_format(given: Any, where: str) -> None:
    """Raises UserError for a contract that a newer PanGu wrote."""
    if isinstance(given, dict) and given.get("format_version", 1) not in (1, FORMAT):
        raise UserError(
            f"{where} is of format {given['format_version']}, but this version of PanGu reads 1 and {FORMAT}; update PanGu."
        )


LATENT_SPACE = ("autoencoder_hash", "latent_scaling", "latent_shift", "spatial_factor")
"""What the experts of one trajectory share."""
SHARED = ("schedule", *LATENT_SPACE, "text_encoder_hashes", "max_tokens")
"""What the stages of one generator share, and a ControlNet with its generator."""


def expert_roles(count: int) -> tuple[Role, ...]:
    """The roles of `count` experts, the noisiest first: those of the paper's pair, and others between them.

    Raises:
        UserError: fewer than two, or more than there are names for.
    """
    most = len(ROLES) + len(MIDDLE_ROLES)
    if not 2 <= count <= most:
        raise UserError(f"2 to {most} experts take turns, not {count}.")
    return (ROLES[0], *MIDDLE_ROLES[: count - 2], ROLES[1])


def in_turn(contracts: Mapping[Role, GeneratorContract]) -> dict[Role, GeneratorContract]:
    """The contracts of experts in the order of their turns, the noisiest first.

    Raises:
        UserError: they are not those of so many experts.
    """
    roles = expert_roles(len(contracts))
    if set(roles) != contracts.keys():
        raise UserError(f"{len(roles)} experts are {', '.join(roles)}, not {', '.join(contracts)}.")
    return {role: contracts[role] for role in roles}


def check_turns(contracts: Sequence[GeneratorContract]) -> None:
    """Contracts, the noisiest first, are those of experts of one trajectory: one latent space, and every level owned once.

    Raises:
        UserError: a gap, an overlap or a mismatch; the sentence names both sides.
    """
    first = contracts[0]
    for contract, role in zip(contracts, expert_roles(len(contracts)), strict=True):
        if contract.role != role:
            raise UserError(f"The {role} side of the pair was given a generator whose role is '{contract.role}'.")
    check_experts([contract.expert for contract in contracts])
    for contract in contracts[1:]:
        for name in LATENT_SPACE:
            ours, theirs = getattr(first, name), getattr(contract, name)
            if ours != theirs:
                raise UserError(
                    f"The pair does not share one {name}: {first.role} has {ours}, {contract.role} has {theirs}."
                )


def owned(contracts: Mapping[Role, GeneratorContract]) -> dict[Role, TimeInterval]:
    """What each generator owns of a trajectory, in its timesteps: those of the noisiest expert.

    Generators of other roles, such as the stages of a cascade, each walk one of their own.
    """
    if not set(ROLES) <= contracts.keys():
        return {role: contract.interval for role, contract in contracts.items()}
    roles = expert_roles(len(contracts))
    return dict(zip(roles, turns([contracts[role].expert for role in roles]), strict=True))


def check_pair(structure: GeneratorContract, texture: GeneratorContract) -> None:
    """Two contracts make a pair (see `check_turns`)."""
    check_turns([structure, texture])
