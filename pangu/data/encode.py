"""Images and captions to latents and text embeddings, once per dataset version and set of encoders.

Each role gets files of its own, self-contained, so that the two training jobs share nothing and the texture job never opens a
file that holds upscaled rows. Knows nothing of training.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageOps
from pydantic import Field
from safetensors.torch import save
from torch import Tensor

from pangu.config import ROLES, Frozen, Recipe, Role
from pangu.contract import GeneratorContract
from pangu.data.table import read_rows
from pangu.diffusion.interval import interval_of
from pangu.diffusion.presets import preset_index
from pangu.errors import UserError
from pangu.models.autoencoders import autoencoder_hash, encode_pixels, load_autoencoder, scaling, spatial_factor
from pangu.models.text import TextTower, embed_captions, load_text_tower
from pangu.progress import Progress, Reporter, silent
from pangu.storage import Home, read_json, write_atomically, write_json

CHUNK_ROWS = 64
COLUMNS = ["key", "image", "caption_en", "caption_zh", "min_timestep", "upscaled", "split"]


class EncodeOutcome(Frozen):
    """What `encode` made."""

    dataset: str
    version: int
    encode_id: str
    structure_rows: int
    texture_rows: int
    already_done: bool = False


class Encoders(Frozen):
    """Everything about the encoders that a generator trained on their output must remember (the interval contract)."""

    autoencoder_hash: str
    text_encoder_hashes: tuple[str, ...]
    latent_scaling: float
    latent_shift: float
    spatial_factor: int
    latent_channels: int
    context_channels: int
    pooled_channels: int
    max_tokens: int

    def contract(self, recipe: Recipe, role: Role, **facts: Any) -> GeneratorContract:
        """What a generator of `role` that `recipe` trains on this output must carry; `facts` say what it was trained on."""
        interval = interval_of(role, recipe.boundary, recipe.schedule.num_train_timesteps)
        ours = self.model_dump(include=set(GeneratorContract.model_fields))
        return GeneratorContract(
            role=role,
            low=interval.low,
            high=interval.high,
            schedule=recipe.schedule,
            resolution=recipe.training(role).resolution,
            recipe=recipe.name,
            recipe_digest=recipe.digest(),
            **ours,
            **facts,
        )


class Manifest(Frozen):
    """Written last: its presence says that the encoded dataset is whole."""

    dataset: str
    version: int
    encoders: Encoders
    resolutions: dict[Role, int] = Field(description="Pixels per side of the encoded images, per role")
    rows: dict[Role, int] = Field(description="Rows of the training split, per role")

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Raises UserError if the encoded dataset is missing or unfinished."""
        path = folder / "manifest.json"
        if not path.is_file():
            raise UserError(f"There is no finished encoded dataset at {folder}; run `pangu encode` first.")
        return cls.model_validate(read_json(path))


def encode(
    dataset: str, version: int, recipe: Recipe, home: Home, report: Reporter = silent, batch_size: int = 16
) -> EncodeOutcome:
    """Encode one dataset version with the recipe's encoders at both resolutions; resumes where a killed run stopped.

    Raises:
        UserError: the version holds no rows, or no row that the texture generator could learn from.
    """
    autoencoder = load_autoencoder(recipe.autoencoder)
    towers = [load_text_tower(source) for source in recipe.text_encoders]
    encoders = describe(autoencoder, towers, recipe.max_tokens)
    resolutions: dict[Role, int] = {role: recipe.training(role).encoded_side for role in ROLES}
    encode_id = encode_digest(dataset, version, encoders, resolutions)
    folder = home.encoded(dataset, encode_id)
    if (folder / "manifest.json").is_file():
        return _outcome(Manifest.load(folder), encode_id, already_done=True)

    rows = read_rows(home, dataset, version, columns=COLUMNS).sort_by("key")
    originals = rows.num_rows - sum(rows["upscaled"].to_pylist())
    check_rows(dataset, version, rows.num_rows, originals)
    counts: dict[Role, int] = dict.fromkeys(ROLES, 0)
    for number, chunk in enumerate(_chunks(rows, CHUNK_ROWS)):
        _encode_chunk(chunk, number, folder, autoencoder, towers, recipe, batch_size)
        done = min(rows.num_rows, (number + 1) * CHUNK_ROWS)
        report(Progress(stage="encode", done=done, total=rows.num_rows, unit="images"))
    for role in ROLES:
        counts[role] = sum(
            sum(split == "train" for split in pq.read_table(part, columns=["split"])["split"].to_pylist())
            for part in parts(folder, role)
        )
    tokens, pooled = embed_captions(towers, [""], recipe.max_tokens)
    write_atomically(folder / "empty_caption.safetensors", save({"tokens": tokens, "pooled": pooled}))
    manifest = Manifest(dataset=dataset, version=version, encoders=encoders, resolutions=resolutions, rows=counts)
    write_json(folder / "manifest.json", manifest.model_dump(mode="json"))
    return _outcome(manifest, encode_id, already_done=False)


def describe(autoencoder: Any, towers: list[TextTower], max_tokens: int) -> Encoders:
    """The facts about loaded encoders that travel with their output."""
    scale, shift = scaling(autoencoder)
    tokens, pooled = embed_captions(towers, [""], max_tokens)
    return Encoders(
        autoencoder_hash=autoencoder_hash(autoencoder),
        text_encoder_hashes=tuple(tower.hash for tower in towers),
        latent_scaling=scale,
        latent_shift=shift,
        spatial_factor=spatial_factor(autoencoder),
        latent_channels=autoencoder.config.latent_channels,
        context_channels=tokens.shape[-1],
        pooled_channels=pooled.shape[-1],
        max_tokens=max_tokens,
    )


def encode_digest(dataset: str, version: int, encoders: Encoders, resolutions: dict[Role, int]) -> str:
    """The id of an encoded dataset: another version, encoder or resolution is another id, so nothing ever mixes."""
    return Manifest(dataset=dataset, version=version, encoders=encoders, resolutions=resolutions, rows={}).digest()


def check_rows(dataset: str, version: int, rows: int, originals: int) -> None:
    """Raises UserError if one of the two generators would have nothing to learn from."""
    if rows == 0:
        raise UserError(f"Version {version} of dataset '{dataset}' has no rows; look at the report of `pangu prepare`.")
    if originals == 0:
        raise UserError(
            f"No image of dataset '{dataset}' is above its size threshold, so the texture generator has nothing to learn "
            f"from; lower texture_min_side in its card or add larger images."
        )


def parts(folder: Path, role: Role) -> list[Path]:
    """The Parquet files of one role, in the order of their row keys."""
    return sorted((folder / role).glob("part-*.parquet"))


def fit_pixels(data: bytes, side: int) -> np.ndarray:
    """Encoded image bytes -> (side, side, 3) uint8: scaled to cover the square, centre-cropped, white behind transparency."""
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode not in ("RGB", "L"):
            rgba = upright.convert("RGBA")
            white = Image.new("RGBA", rgba.size, "white")
            white.alpha_composite(rgba)
            upright = white
        return np.asarray(ImageOps.fit(upright.convert("RGB"), (side, side), Image.Resampling.LANCZOS))


def _chunks(rows: pa.Table, size: int) -> Iterator[pa.Table]:
    for start in range(0, rows.num_rows, size):
        yield rows.slice(start, size)


def _outcome(manifest: Manifest, encode_id: str, already_done: bool) -> EncodeOutcome:
    return EncodeOutcome(
        dataset=manifest.dataset,
        version=manifest.version,
        encode_id=encode_id,
        structure_rows=manifest.rows["structure"],
        texture_rows=manifest.rows["texture"],
        already_done=already_done,
    )


def _encode_chunk(
    chunk: pa.Table,
    number: int,
    folder: Path,
    autoencoder: Any,
    towers: list[TextTower],
    recipe: Recipe,
    batch_size: int,
) -> None:
    """Write this chunk's file of each role, unless a run before has done so."""
    text = None
    for role in ROLES:
        path = folder / role / f"part-{number:06d}.parquet"
        if path.is_file():
            continue
        text = text or _embed(chunk, towers, recipe.max_tokens)
        mine = [i for i, upscaled in enumerate(chunk["upscaled"].to_pylist()) if role == "structure" or not upscaled]
        side = recipe.training(role).encoded_side
        images = [chunk["image"][i].as_py() for i in mine]
        latents = _encode_images(images, side, autoencoder, batch_size)
        columns: dict[str, Any] = {name: chunk[name].take(mine) for name in ("key", "caption_en", "caption_zh")}
        columns |= {name: chunk[name].take(mine) for name in ("min_timestep", "split")}
        columns["preset"] = pa.array([preset_index(side, side, side)] * len(mine), pa.int32())
        columns["latents"] = pa.array([to_bytes(latent) for latent in latents], pa.binary())
        columns |= {name: pa.array([values[i] for i in mine], pa.binary()) for name, values in text.items()}
        _write_part(path, pa.table(columns))


def _write_part(path: Path, table: pa.Table) -> None:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="none")  # half-precision bits of latents do not compress
    write_atomically(path, sink.getvalue())


def _embed(chunk: pa.Table, towers: list[TextTower], max_tokens: int) -> dict[str, list[bytes]]:
    """Token and pooled embeddings of both languages, as half-precision bytes per row; one caption may stand for both."""
    columns: dict[str, list[bytes]] = {}
    for language, other in (("en", "zh"), ("zh", "en")):
        pairs = zip(chunk[f"caption_{language}"].to_pylist(), chunk[f"caption_{other}"].to_pylist(), strict=True)
        captions = [own or instead or "" for own, instead in pairs]
        tokens, pooled = embed_captions(towers, captions, max_tokens)
        columns[f"tokens_{language}"] = [to_bytes(row) for row in tokens]
        columns[f"pooled_{language}"] = [to_bytes(row) for row in pooled]
    return columns


@torch.inference_mode()
def _encode_images(images: list[bytes], side: int, autoencoder: Any, batch_size: int) -> Tensor:
    """(N, C, H, W) latents of encoded images, scaled for diffusion."""
    if not images:
        factor = spatial_factor(autoencoder)
        return torch.empty(0, autoencoder.config.latent_channels, side // factor, side // factor)
    latents = []
    for start in range(0, len(images), batch_size):
        pixels = np.stack([fit_pixels(data, side) for data in images[start : start + batch_size]])
        latents.append(encode_pixels(autoencoder, torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1))
    return torch.cat(latents)


def to_bytes(tensor: Tensor) -> bytes:
    """Half-precision little-endian bytes of a tensor, row-major."""
    return tensor.to(torch.float16).contiguous().numpy().tobytes()
