"""Precomputed rows of one training job, read by row index from a local copy of the Parquet files. Knows nothing of the images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from pangu.config import Role
from pangu.data.captions import EMPTY, LANGUAGES
from pangu.data.encode.edges import control_image, unpacked
from pangu.data.encode.encoded import EMPTY_CAPTION_FILE, Manifest, parts
from pangu.data.rows.local_cache import Strings, cache_folder, made_once, map_table, mapped
from pangu.data.rows.local_copy import COUNTS, FORMAT, LocalCopy, with_counts
from pangu.errors import UserError


@dataclass(frozen=True)
class MappedRows:
    """`Rows` whose latents and embeddings lie in files.

    slot_n: place of a row in the latents of its preset; text_n: of its first caption in tokens_nvsc (M, 2, S, C) and pooled_nvp
    (M, 2, P), where its others follow; style_n: in the same columns of styled captions, or -1. Half precision throughout.
    control_of: (N, H, bytes) packed bits.
    """

    keys: Sequence[str]
    min_timestep_n: Tensor
    preset_n: Tensor
    slot_n: np.ndarray
    text_n: np.ndarray
    style_n: np.ndarray
    count_n: np.ndarray
    latents_of: Mapping[int, np.ndarray]
    lower_of: Mapping[int, np.ndarray]
    control_of: Mapping[int, np.ndarray]
    tokens_nvsc: np.ndarray
    pooled_nvp: np.ndarray
    styled_tokens_nvsc: np.ndarray
    styled_pooled_nvp: np.ndarray
    empty_tokens_sc: np.ndarray
    empty_pooled_p: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def styled_n(self) -> Tensor:
        return torch.from_numpy(self.style_n >= 0)

    @property
    def captions_n(self) -> Tensor:
        return torch.from_numpy(self.count_n)

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

    def captions(
        self, rows: Sequence[int], variants: Sequence[int], numbers: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        index, variant = np.asarray(rows), np.asarray(variants)
        number = np.zeros_like(index) if numbers is None else np.asarray(numbers)
        plain = self.text_n[index] + number, variant
        if (variant >= 0).all() and (variant < len(LANGUAGES)).all():
            return torch.from_numpy(self.tokens_nvsc[plain]), torch.from_numpy(self.pooled_nvp[plain])
        return (
            self._mixed(self.tokens_nvsc, self.styled_tokens_nvsc, self.empty_tokens_sc, index, variant, number),
            self._mixed(self.pooled_nvp, self.styled_pooled_nvp, self.empty_pooled_p, index, variant, number),
        )

    def _images(self, columns: Mapping[int, np.ndarray], rows: Sequence[int]) -> Tensor:
        index = np.asarray(rows)
        presets = self.preset_n[index].unique().tolist()
        assert len(presets) == 1, f"rows of presets {presets} in one batch"
        return torch.from_numpy(columns[presets[0]].take(self.slot_n[index], axis=0))

    def _mixed(
        self, plain: np.ndarray, styled: np.ndarray, empty: np.ndarray, index: np.ndarray, variant: np.ndarray,
        number: np.ndarray,
    ) -> Tensor:  # fmt: skip
        """The caption of each row that its variant asks for."""
        values = np.empty((len(index), *empty.shape), empty.dtype)
        values[variant == EMPTY] = empty
        for where, column, places, first in (
            ((variant >= 0) & (variant < len(LANGUAGES)), plain, self.text_n, 0),
            (variant >= len(LANGUAGES), styled, self.style_n, len(LANGUAGES)),
        ):
            if where.any():
                values[where] = column[places[index[where]] + number[where], variant[where] - first]
        return torch.from_numpy(values)


def open_mapped(folder: Path, role: Role) -> MappedRows:
    """The training split of one role, from this machine's copy, which is made first if need be.

    Raises:
        UserError: the encoded dataset is unfinished, was not encoded for that role, or holds no row for it, or the disk is full.
    """
    plan = LocalCopy(Manifest.load(folder), role, parts(folder, role))
    if len(plan) == 0:
        raise UserError(f"The encoded dataset {folder.name} has no training rows for the {role} generator.")
    return read_copy(made_once(cache_folder(folder) / f"{role}-{FORMAT}", plan.write, plan.needed_bytes), folder)


def read_copy(copy: Path, folder: Path) -> MappedRows:
    """The rows of a finished local copy."""
    table = with_counts(map_table(copy / "rows.arrow"))
    empty = load_file(folder / EMPTY_CAPTION_FILE)
    numbers = {name: table[name].to_numpy() for name in ("min_timestep", "preset", "slot", "text", "style", COUNTS)}
    presets = sorted(set(numbers["preset"].tolist()))
    return MappedRows(
        keys=Strings(table["key"]),
        min_timestep_n=torch.from_numpy(numbers["min_timestep"].copy()),
        preset_n=torch.from_numpy(numbers["preset"].copy()),
        slot_n=numbers["slot"],
        text_n=numbers["text"],
        style_n=numbers["style"],
        count_n=numbers[COUNTS].astype(np.int64),
        latents_of=_columns(copy, "latents", presets),
        lower_of=_columns(copy, "lower", presets),
        control_of=_columns(copy, "control", presets),
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
