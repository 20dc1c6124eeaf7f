"""What an encoded dataset is: the facts in its manifest, and which of its files a training job opens."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pangu.config import Frozen, Recipe, Role
from pangu.contract import GeneratorContract
from pangu.data.encode.views import JobData, View, job_data
from pangu.data.table.admission_levels import AdmissionLevels
from pangu.diffusion.interval import interval_of
from pangu.diffusion.presets import Size
from pangu.errors import UserError
from pangu.storage import read_json

EMPTY_CAPTION_FILE = "empty_caption.safetensors"
MERGED = "merged"
"""The folder in a partition's own where parts lie that were joined into large files."""
PARTITIONS = {False: "originals", True: "upscaled"}
"""Whether rows were upscaled -> the folder of their files: a job that trains on originals never opens the others."""


class Encoders(Frozen):
    """Everything about the encoders that a generator trained on their output must remember (the interval contract)."""

    autoencoder_hash: str
    text_encoder_hashes: tuple[str, ...]
    placeholder_tokens: tuple[str, ...] = Field((), exclude_if=lambda words: not words)
    latent_scaling: float
    latent_shift: float
    spatial_factor: int
    latent_channels: int
    context_channels: int
    pooled_channels: int
    max_tokens: int

    def contract(self, recipe: Recipe, role: Role, **facts: Any) -> GeneratorContract:
        """What a generator of `role` that `recipe` trains on this output must carry; `facts` say what it was trained on."""
        interval = interval_of(role, recipe.boundary, recipe.schedule.num_train_timesteps, recipe.further_boundaries)
        ours = self.model_dump(include=set(GeneratorContract.model_fields))
        training = recipe.training(role)
        contract = GeneratorContract(
            role=role,
            low=interval.low,
            high=interval.high,
            schedule=recipe.schedule,
            resolution=training.resolution,
            presets=training.presets,
            recipe=recipe.name,
            recipe_digest=recipe.digest(),
            **ours,
            **facts,
        )
        return contract if training.distillation is None else contract.of_student(training.distillation)


TextKind = Literal["precomputed", "on_the_fly"]


def text_of(recipe: Recipe) -> TextKind:
    """Whether captions are embedded beforehand: not where training shows them in more wordings than could be kept."""
    return "on_the_fly" if recipe.rewords else "precomputed"


class EncodedManifest(Frozen):
    """Written last: its presence says that the encoded dataset is whole."""

    dataset: str
    version: int
    files: str = Field("", description="Digest of the names and sizes of the files of this version")
    latents: Literal["precomputed", "on_the_fly"] = Field(
        "precomputed", description="On the fly: there are no files beside this one, images are encoded while training"
    )
    text: TextKind = Field(
        "precomputed",
        exclude_if=lambda value: value == "precomputed",
        description="On the fly: texts lie in the files instead of their embeddings, because training words them anew",
    )
    encoders: Encoders
    admission: AdmissionLevels | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="In which noise levels the lowest timesteps of its rows are told; null: in those of its recipe",
    )
    styles: dict[str, str] = Field({}, description="Style of a row -> the prefix of its captions")
    jobs: dict[Role, JobData]
    buckets: dict[Role, dict[int, int]] = Field({}, description="Rows of the training split per preset of the view")

    @property
    def rows(self) -> dict[Role, int]:
        """Rows of the training split, per role."""
        return {role: sum(buckets.values()) for role, buckets in self.buckets.items()}

    def encode_id(self) -> str:
        """The id of the encoded dataset: whatever else would decide its content is another id, so nothing ever mixes."""
        return self.model_copy(update={"buckets": {}}).digest()

    @classmethod
    def load(cls, folder: Path) -> "EncodedManifest":
        """Raises UserError if the encoded dataset is missing or unfinished."""
        path = folder / "manifest.json"
        if not path.is_file():
            raise UserError(f"There is no finished encoded dataset at {folder}; run `pangu encode` first.")
        return cls.model_validate(read_json(path))

    def job(self, role: Role) -> JobData:
        """What the job of `role` reads.

        Raises:
            UserError: it was not encoded for.
        """
        if role not in self.jobs:
            raise UserError(
                f"The dataset was encoded for {', '.join(self.jobs)}, not for {role}; encode it with its recipe."
            )
        return self.jobs[role]


def parts(folder: Path, role: Role) -> list[Path]:
    """The Parquet files that the job of `role` reads, in a fixed order."""
    data = EncodedManifest.load(folder).job(role)
    return [path for upscaled in data.partitions for path in part_files(folder, data.view, upscaled)]


def part_files(folder: Path, view: View, upscaled: bool) -> list[Path]:
    """The files of one partition in the order of their rows, large ones and single parts alike."""
    place = partition_folder(folder, view, upscaled)
    return sorted([*place.glob("part-*.parquet"), *(place / MERGED).glob("part-*.parquet")], key=parts_in)


def part_file(place: Path, stem: str) -> Path:
    """The file of one part of a partition; stem: FILE-GROUP-CHUNK, numbers of where its rows come from."""
    return place / f"part-{stem}.parquet"


def parts_in(file: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The numbers of the first and of the last part that a file holds, which its name says."""
    first, _, last = file.stem.removeprefix("part-").partition("_")
    return numbers_of(first), numbers_of(last or first)


def numbers_of(stem: str) -> tuple[int, ...]:
    return tuple(map(int, stem.split("-")))


def partition_folder(folder: Path, view: View, upscaled: bool) -> Path:
    """Where the rows of one partition lie, encoded under one view."""
    return folder / f"view-{view.digest()[:8]}" / PARTITIONS[upscaled]


def check_encoded(manifest: EncodedManifest, recipe: Recipe, role: Role) -> None:
    """Raises UserError if `recipe` would train `role` on other data than was encoded, or a preset has fewer rows than a batch."""
    check_views(manifest, recipe, role)
    check_batches(manifest.buckets[role], manifest.job(role), recipe, role)


def check_views(manifest: EncodedManifest, recipe: Recipe, role: Role) -> None:
    """Raises UserError if `recipe` would train `role` on other data than was encoded."""
    data, training = manifest.job(role), recipe.training(role)
    wanted = job_data(training, manifest.encoders.spatial_factor, data.view.kept)
    ours: Mapping[str, tuple[Any, Any]] = {
        "sizes in px": (_span(wanted.view.sizes), _span(data.view.sizes)),
        "max_tokens": (recipe.max_tokens, manifest.encoders.max_tokens),
        "styles": (recipe.styles, manifest.styles),
        "latents": (recipe.execution.latents, manifest.latents),
        "text": (text_of(recipe), manifest.text),
        "rows": (wanted.rows, data.rows),
        "min_original_side": (wanted.min_original_side, data.min_original_side),
        "sizes of the earlier stage": (wanted.view.lower_sizes, data.view.lower_sizes),
        "control": (wanted.view.control, data.view.control),
    }
    for name, (asked, encoded) in ours.items():
        if asked != encoded:
            raise UserError(
                f"Recipe '{recipe.name}' trains {role} with {name} {asked}, but the dataset was encoded with {encoded}; "
                f"run `pangu encode` with this recipe."
            )


def check_batches(buckets: Mapping[int, int], data: JobData, recipe: Recipe, role: Role) -> None:
    """Raises UserError if a preset of the view has fewer rows than a batch; buckets: preset -> rows."""
    training = recipe.training(role)
    for preset, rows in sorted(buckets.items()):
        if rows < training.batch_size:
            height, width = data.view.sizes[preset]
            raise UserError(
                f"Only {rows} images of {role} have the shape {height}x{width} (height x width), fewer than a batch of "
                f"{training.batch_size}; lower batch_size, set starved_presets: nearest and encode again, or add such images."
            )


def _span(sizes: tuple[Size, ...]) -> str:
    """The smallest and the largest size as one word, e.g. 96x96."""
    names = [f"{height}x{width}" for height, width in sizes]
    return names[0] if len(names) == 1 else f"{names[0]}...{names[-1]}"
