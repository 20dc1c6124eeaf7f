"""The dataset card: one YAML file in `datasets/` that says where images come from and what is done to them.

Owns the card's shape and how it is found and read.
"""

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, PrivateAttr, ValidationError, ValidationInfo, field_validator, model_validator

import pangu
from pangu.config import AutoencoderSource, Frozen, NoiseSchedule
from pangu.data.fill_captions import FillCaptions
from pangu.data.filters import Filters
from pangu.errors import UserError
from pangu.names import nearest
from pangu.storage import Home

HOME_PREFIX = "home://"
Split = Literal["train", "held_out"]
UpscalerName = Literal["spanx2", "spanx4", "lanczos"]
Device = Literal["auto", "cpu", "cuda", "vulkan"]


class Columns(Frozen):
    """Which columns of the source table are read; at least one caption column is needed."""

    url: str = "url"
    image: str | None = Field(
        None, description="Of a Parquet table that holds the encoded images themselves; nothing is downloaded then"
    )
    caption_en: str | None = None
    caption_zh: str | None = None
    # Left out where there are none, so that the digests of cards stay what they were.
    caption: str | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Captions in either language: each goes to its own, behind those of caption_en or caption_zh",
    )
    keywords_en: str | None = Field(
        None, exclude_if=lambda value: value is None, description="Single words, as lists or as text between | , or ;"
    )
    keywords_zh: str | None = Field(None, exclude_if=lambda value: value is None, description="The same in Chinese")
    license: str | None = Field(None, description="Licence per image; where it is empty, the card's licence holds")
    style: str | None = Field(None, description="Style per image; where it is empty, the card's style holds")

    @model_validator(mode="after")
    def _some_caption(self) -> "Columns":
        if self.caption_en is None and self.caption_zh is None and self.caption is None:
            raise ValueError("name at least one caption column, caption_en or caption_zh")
        return self


class Metadata(Frozen):
    """The table that says what the images of a folder show, where it is no metadata.* with `file_name` inside the folder."""

    file: str = Field(
        min_length=1, description="A table, or a list of captions as COCO has it (.json); relative to the card"
    )
    file_name: str = Field("file_name", description="Its column that names each image, relative to the folder")


class Licence(Frozen):
    """Under what terms the images may be used, and who must be named."""

    name: str
    url: str = ""
    attribution: str = ""


class Admission(Frozen):
    """How the lowest timestep of upscaled rows is estimated; see `pangu.diffusion.blur_admission`."""

    autoencoder: AutoencoderSource | None = Field(
        AutoencoderSource(), description="In whose latents noise hides what upscaling lost; null: in pixels"
    )
    noise_schedule: NoiseSchedule = NoiseSchedule()
    visible_share: float = Field(0.1, gt=0, lt=1, description="Of the lost detail's power that may still show")
    confidence: float = Field(
        0.9, gt=0, lt=1, description="Share of the calibration's images whose true timestep the estimate must not miss"
    )
    images: int = Field(48, ge=8, le=4096, description="Originals that the estimate is calibrated on")


class Upscale(Frozen):
    """What becomes of images whose smaller side is below `texture_min_side`."""

    target_side: int = Field(1024, ge=16, description="Smaller side after upscaling, px")
    upscaler: UpscalerName = "spanx2"
    model: str | None = Field(
        None,
        description="Weights (.safetensors) of any network that spandrel reads, instead of `upscaler`; relative to the card",
    )
    device: Device = Field(
        "auto",
        description="SPAN runs on cpu or vulkan, a model on cpu or cuda; auto: cuda for a model where there is one, or cpu",
    )
    max_factor: float = Field(4.0, gt=1, description="Images that would need more than this are dropped as too_small")
    min_timestep: int | None = Field(
        None,
        ge=0,
        description="Lowest timestep an upscaled row may train; null: estimated for each row from its spectrum",
    )
    admission: Admission = Admission()

    @model_validator(mode="after")
    def _device_can_run_it(self) -> "Upscale":
        if self.model is None and self.device == "cuda":
            raise ValueError("device cuda needs a model; SPAN runs on cpu or vulkan")
        if self.model is not None and self.device == "vulkan":
            raise ValueError("device vulkan is for SPAN; a model runs on cpu or cuda")
        return self


class Limits(Frozen):
    """What one URL, and one ingest, may cost."""

    max_bytes: int = Field(20_000_000, ge=1, description="Per file")
    max_pixels: int = Field(50_000_000, ge=1, le=80_000_000, description="Per image, from its header before decoding")
    max_seconds: float = Field(20.0, gt=0, description="Per URL and attempt, redirects and slow servers included")
    retries: int = Field(1, ge=0, le=10, description="Further attempts at once after a failed download")
    retry_rounds: int = Field(3, ge=1, le=10, description="Further tries of a failure by `pangu ingest --retry`")
    respect_opt_out: bool = Field(True, description="Leave out images whose X-Robots-Tag says noai or noimageai")
    stall_seconds: float = Field(
        180.0, gt=0, description="Without any progress for this long, the download is restarted"
    )
    total_seconds: float = Field(86_400.0, gt=0, description="Deadline of one ingest; running it again continues")
    memory_mb: int = Field(4096, ge=512, description="Per download process")
    processes: int = Field(2, ge=1)
    threads: int = Field(16, ge=1, description="Downloads at a time, per process")
    rows_per_shard: int = Field(1000, ge=2)
    allow_private_hosts: tuple[str, ...] = Field(
        (), description="Private or loopback hosts the table may name; redirects to other ports or hosts stay refused"
    )


class HeldOut(Frozen):
    """Rows kept from training. A row is held out if any of these rules names it; all rules empty hold out nothing."""

    keys: tuple[str, ...] = Field((), description="Content hashes, or {file: PATH}, one a line")
    captions_en: tuple[str, ...] = Field(
        (), description="Whole English captions, case ignored, or {file: PATH}, one a line; relative to the card"
    )
    combinations: tuple[tuple[str, ...], ...] = Field(
        (), description="Lists of words: a caption that holds every word of one list is held out"
    )
    fraction: float = Field(0.0, ge=0, lt=1, description="Further share of captions, chosen by the caption's hash")

    @field_validator("keys", "captions_en", mode="before")
    @classmethod
    def _listed_in_a_file(cls, value: Any, info: ValidationInfo) -> Any:
        """What several cards hold out need stand in one file only."""
        if not (isinstance(value, dict) and value.keys() == {"file"}):
            return value
        path = Path((info.context or {}).get("folder", ".")) / str(value["file"])
        try:
            return tuple(filter(None, map(str.strip, path.read_text(encoding="utf-8").splitlines())))
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"the file {path} cannot be read: {' '.join(str(error).split())}") from error


class Splits(Frozen):
    held_out: HeldOut = HeldOut()


DATASET_NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"


class Card(Frozen):
    """Everything about one dataset, from its URL table to its splits."""

    name: str = Field(pattern=DATASET_NAME)
    description: str = ""
    source: str = Field(
        min_length=1,
        description="Tables of URLs (.parquet, .csv, .tsv, .jsonl, also .gz) or a folder of them, webdataset archives (.tar), a "
        "folder of images, or dataset://NAME@VERSION. A path relative to the card, a URI, or home://PATH; names of files may "
        "hold *",
    )
    metadata: Metadata | None = Field(
        None, exclude_if=lambda value: value is None, description="Of a folder of images; null: metadata.* inside it"
    )
    columns: Columns
    licence: Licence
    style: str | None = Field(
        None, min_length=1, description="Style of every image, e.g. 'photo': a recipe may give its captions a prefix"
    )
    texture_min_side: int = Field(512, ge=8, description="Images at least this large train the texture generator, px")
    upscale: Upscale = Upscale()
    filters: Filters = Filters()
    fill_captions: FillCaptions | None = Field(None, description="Null: a missing language stays missing")
    limits: Limits = Limits()
    splits: Splits = Splits()
    _folder: Path = PrivateAttr(default_factory=Path.cwd)

    @model_validator(mode="after")
    def _target_reaches_threshold(self) -> "Card":
        if self.upscale.target_side < self.texture_min_side:
            raise ValueError("upscale.target_side must not be smaller than texture_min_side")
        return self

    @property
    def folder(self) -> Path:
        """What relative paths of the card are relative to."""
        return self._folder

    @classmethod
    def load(cls, path_or_name: str | Path) -> "Card":
        """As `load_card`: a YAML file, or the name of one in `datasets/`."""
        return load_card(path_or_name)

    def source_uri(self, home: Home) -> str:
        """Where the source lies: `home://` paths under the installation, others relative to the card's folder."""
        if self.source.startswith(HOME_PREFIX):
            return str(home.root / self.source.removeprefix(HOME_PREFIX))
        return self.source if "://" in self.source else str(self._folder / self.source)

    def metadata_file(self) -> Path | None:
        """The table that says what the images of a folder show, where the card names one."""
        return None if self.metadata is None else self._folder / Path(self.metadata.file).expanduser()

    def upscale_model(self) -> Path | None:
        """The file of the upscaler's weights, where the card brings its own."""
        return None if self.upscale.model is None else self._folder / Path(self.upscale.model).expanduser()

    def download_digest(self) -> str:
        """Digest of what decides which bytes are kept: thresholds may change without downloading again."""
        kept = self.limits.model_dump(include={"max_bytes", "max_pixels", "rows_per_shard", "allow_private_hosts"})
        return hashlib.sha256(f"{self.name}{kept}{self.licence.digest()}".encode()).hexdigest()[:16]

    def work_digest(self) -> str:
        """Digest of what decides how rows are made. Thresholds and splits decide which are kept, and may change later."""
        work = {
            "name": self.name,
            "columns": self.columns.model_dump(),
            "style": self.style,
            "texture_min_side": self.texture_min_side,
            "upscale": self.upscale.model_dump(mode="json"),
            "max_pixels": self.limits.max_pixels,
            "scores": self.filters.work(),
            "captions": self.fill_captions and self.fill_captions.work(),
        }
        return hashlib.sha256(json.dumps(work, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]

    @property
    def describes(self) -> bool:
        """Whether an image without any caption can get one."""
        fill = self.fill_captions
        return fill is not None and fill.describes

    def split_of(self, caption_en: str, key: str, more_captions_en: Sequence[str] = ()) -> Split:
        """The split of a row; depends on nothing but its English captions and its content hash. `fraction` looks at the first."""
        rule, captions = self.splits.held_out, [text.casefold().strip() for text in (caption_en, *more_captions_en)]
        words = [set(caption.split()) for caption in captions]
        named = {other.casefold().strip() for other in rule.captions_en}
        combinations = [{word.casefold() for word in wanted} for wanted in rule.combinations if wanted]
        held_out = (
            key in rule.keys
            or not named.isdisjoint(captions)
            or any(mine >= wanted for mine in words for wanted in combinations)
            or _unit_interval(captions[0] or key) < rule.fraction
        )
        return "held_out" if held_out else "train"


def _unit_interval(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def load_card(path_or_name: str | Path) -> Card:
    """Read a card from a YAML file, or by its name from `datasets/`.

    Raises:
        UserError: no such card, not YAML, an unknown or missing key, or a value out of bounds.
    """
    path = find_card(path_or_name)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"The card {path} is not readable YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise UserError(f"The card {path} must be a YAML mapping of keys to values; see datasets/README.md.")
    return card_from(content, path.parent, path)


def card_from(content: Mapping[str, Any], folder: str | Path, where: str | Path) -> Card:
    """A card from its fields. folder: what its relative paths are relative to; where: what an error calls it.

    Raises:
        UserError: an unknown or missing key, or a value out of bounds.
    """
    try:
        card = Card.model_validate(content, context={"folder": Path(folder)})
    except ValidationError as error:
        raise UserError(f"The card {where} has {explain(error)}") from error
    card._folder = Path(folder).absolute()
    return card


def card_folders() -> tuple[Path, Path]:
    """Where cards are found by their names: `datasets/` of the working folder, then that beside the package."""
    return Path("datasets"), Path(pangu.__file__).parents[1] / "datasets"


def listed_cards(folders: tuple[Path, ...] | None = None) -> list[str]:
    """Names of the cards of some folders (default: `card_folders`), in alphabetical order."""
    return sorted({path.stem for folder in folders or card_folders() for path in folder.glob("*.yaml")})


def find_card(path_or_name: str | Path) -> Path:
    """The file of a card.

    Raises:
        UserError: there is none; says the names that are nearest, or what makes a card of a folder.
    """
    path = Path(path_or_name)
    if path.is_file():
        return path
    folders = card_folders()
    for folder in folders:
        if (named := folder / f"{path_or_name}.yaml").is_file():
            return named
    if path.is_dir():
        raise UserError(f"{path} is a folder and no card; let one be proposed: `pangu new {shlex.quote(str(path))}`.")
    raise UserError(
        f"There is no card '{path_or_name}': give the path of a YAML file, or one of datasets/ "
        f"({', '.join(nearest(str(path_or_name), listed_cards()))}); a new one: `pangu new FOLDER`."
    )


def recipe_beside(card: Path) -> Path | None:
    """The recipe that `pangu new` left beside a card, if it is there."""
    path = card.with_suffix(".recipe.json")
    return path if path.is_file() else None


def explain(error: ValidationError) -> str:
    """The faults of a pydantic error as one clause, e.g. "an unknown key 'colour'; remove it."."""
    return "; ".join(_explain_one(fault) for fault in error.errors(include_url=False)) + "."


def _explain_one(fault: Any) -> str:
    where = ".".join(str(part) for part in fault["loc"]) or "its values"
    if fault["type"] == "extra_forbidden":
        return f"an unknown key '{where}' (remove it, or correct its spelling)"
    if fault["type"] == "missing":
        return f"no key '{where}' (add it)"
    message = fault["msg"].removeprefix("Value error, ")
    return f"a bad value at '{where}': {message[:1].lower()}{message[1:]}"
