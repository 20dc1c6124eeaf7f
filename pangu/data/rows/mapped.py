"""Precomputed rows of one training job, read by row index from a local copy of the Parquet files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load_file
from torch import Tensor

from pangu.config import Recipe, Role
from pangu.data.card import Split
from pangu.data.encode.edges import control_image, unpacked
from pangu.data.encode.encoded import EMPTY_CAPTION_FILE, EncodedManifest, parts
from pangu.data.encode.encoders import load_towers
from pangu.data.rows.local_cache import Strings, cache_folder, made_once, map_rows, mapped
from pangu.data.rows.local_copy import COUNTS, FORMAT, LocalCopy
from pangu.data.rows.row_numbers import as_tensor
from pangu.data.rows.stored_texts import StoredTexts
from pangu.data.rows.texts import Captioned
from pangu.data.rows.training_rows import NoRows, Texts
from pangu.data.rows.worded_texts import WordedTexts
from pangu.errors import UserError
from pangu.models.placeholder_tokens import placeholders

Embedder = Callable[[pa.Table], Texts]


@dataclass(frozen=True)
class MappedRows(Captioned):
    """`Rows` whose latents lie in files, in half precision, and their embeddings or texts, too.

    slot_n: place of a row in the latents of its preset. control_of: (N, H, bytes) packed bits.
    """

    keys: Sequence[str]
    min_timestep_n: Tensor
    preset_n: Tensor
    slot_n: np.ndarray
    latents_of: Mapping[int, np.ndarray]
    lower_of: Mapping[int, np.ndarray]
    control_of: Mapping[int, np.ndarray]
    texts: Texts

    def __len__(self) -> int:
        return len(self.keys)

    def with_limits(self, min_timestep_n: Tensor) -> "MappedRows":
        """The same rows with other lowest timesteps."""
        return replace(self, min_timestep_n=min_timestep_n)

    def latents(self, rows: Sequence[int]) -> Tensor:
        return self._images(self.latents_of, rows)

    def lower(self, rows: Sequence[int]) -> Tensor | None:
        return self._images(self.lower_of, rows) if self.lower_of else None

    def control(self, rows: Sequence[int]) -> Tensor | None:
        if not self.control_of:
            return None
        bits = self._images(self.control_of, rows).numpy()
        latents = self.latents_of[int(self.preset_n[rows[0]])]
        width = latents.shape[3] * (bits.shape[1] // latents.shape[2])
        return control_image(unpacked(bits, width))

    def _images(self, columns: Mapping[int, np.ndarray], rows: Sequence[int]) -> Tensor:
        index = np.asarray(rows)
        presets = self.preset_n[index].unique().tolist()
        assert len(presets) == 1, f"rows of presets {presets} in one batch"
        return torch.from_numpy(columns[presets[0]].take(self.slot_n[index], axis=0))


def open_mapped(
    folder: Path,
    role: Role,
    recipe: Recipe | None = None,
    device: torch.device | str = "cpu",
    split: Split = "train",
    like: MappedRows | None = None,
) -> MappedRows:
    """One split of what a role trains on, from this machine's copy, which is made first if need be.

    Texts that are kept as such are embedded by the encoders of `recipe` on `device`, or those of `like`.

    Raises:
        UserError: the encoded dataset is unfinished, was not encoded for that role or with the recipe's text encoders, or
            holds no row for it; or the disk is full.
    """
    manifest = EncodedManifest.load(folder)
    copy = cache_folder(folder) / (f"{role}-{FORMAT}" if split == "train" else f"{role}-{split}-{FORMAT}")
    if not copy.is_dir():
        plan = LocalCopy(manifest, role, parts(folder, role), split)
        if len(plan) == 0:
            kind = "training" if split == "train" else "held-out"
            raise NoRows(f"The encoded dataset {folder.name} has no {kind} rows for the {role} generator.")
        made_once(copy, plan.write, plan.needed_bytes)
    embedder = None if manifest.text == "precomputed" else _embedder(manifest, folder, recipe, device, like)
    return read_copy(copy, folder, embedder)


def _embedder(
    manifest: EncodedManifest,
    folder: Path,
    recipe: Recipe | None,
    device: torch.device | str,
    like: MappedRows | None = None,
) -> Embedder:
    """What makes texts of a table, with the towers that the dataset was encoded for."""
    if recipe is None:
        raise UserError(
            f"The captions of {folder.name} are embedded while training, which needs the recipe's encoders."
        )
    loaded = like.texts.towers if like is not None and isinstance(like.texts, WordedTexts) else None
    towers, known = loaded or load_towers(recipe, device), manifest.encoders
    hashes, told = tuple(tower.hash for tower in towers), (known.text_encoder_hashes, known.placeholder_tokens)
    if (hashes, placeholders(towers), recipe.max_tokens) != (*told, known.max_tokens):
        raise UserError(
            f"The text encoders of recipe '{recipe.name}' are not those of {folder}; run `pangu encode` with it."
        )
    return lambda table: WordedTexts.of(table, recipe, towers)


def read_copy(copy: Path, folder: Path, embedder: Embedder | None = None) -> MappedRows:
    """The rows of a finished local copy; without an embedder it holds embeddings."""
    table, numbers = map_rows(copy)
    presets = sorted(int(path.stem.partition("-")[2]) for path in copy.glob("latents-*.npy"))
    return MappedRows(
        keys=Strings(table["key"]),
        min_timestep_n=as_tensor(numbers["min_timestep"]),
        preset_n=as_tensor(numbers["preset"]),
        slot_n=numbers["slot"],
        latents_of=_columns(copy, "latents", presets),
        lower_of=_columns(copy, "lower", presets),
        control_of=_columns(copy, "control", presets),
        texts=_stored_texts(numbers, copy, folder) if embedder is None else embedder(table),
    )


def _stored_texts(numbers: Mapping[str, np.ndarray], copy: Path, folder: Path) -> StoredTexts:
    empty = load_file(folder / EMPTY_CAPTION_FILE)
    return StoredTexts(
        text_n=numbers["text"],
        style_n=numbers["style"],
        count_n=numbers[COUNTS],
        tokens_nvsc=mapped(copy / "tokens.npy"),
        pooled_nvp=mapped(copy / "pooled.npy"),
        styled_tokens_nvsc=mapped(copy / "styled_tokens.npy"),
        styled_pooled_nvp=mapped(copy / "styled_pooled.npy"),
        empty_tokens_sc=empty["tokens"][0].half().numpy(),
        empty_pooled_p=empty["pooled"][0].half().numpy(),
    )


def _columns(copy: Path, kind: str, presets: Sequence[int]) -> dict[int, np.ndarray]:
    """The column of that kind for each preset; empty where the job has none."""
    paths = {preset: copy / f"{kind}-{preset}.npy" for preset in presets}
    return {preset: mapped(path) for preset, path in paths.items() if path.is_file()}
