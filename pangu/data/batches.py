"""Rows of an encoded dataset as tensors: what one training job reads, and nothing of what it does with them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file
from torch import Tensor

from pangu.config import Role
from pangu.data.encode import Manifest, parts
from pangu.errors import UserError

LANGUAGES = ("en", "zh")
EMPTY = -1
"""The caption variant that dropout puts in the place of any other."""


class Rows(Protocol):
    """What a training job needs to know of its rows, sorted by key; rows of one bucket share a preset and a shape.

    keys: N content hashes; min_timestep_n, preset_n (N,) int64; styled_n (N,) bool: has captions with a style's prefix.
    """

    @property
    def keys(self) -> Sequence[str]: ...
    @property
    def min_timestep_n(self) -> Tensor: ...
    @property
    def preset_n(self) -> Tensor: ...
    @property
    def styled_n(self) -> Tensor: ...

    def latents(self, rows: Sequence[int]) -> Tensor:
        """(B, C, H, W) float latents of rows of one bucket."""
        ...

    def lower(self, rows: Sequence[int]) -> Tensor | None:
        """(B, C, H, W) latents of the upsampled lower-resolution images; None unless the job is a later stage of a cascade."""
        ...

    def captions(self, rows: Sequence[int], variants: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(B, S, C) token and (B, P) pooled embeddings; variant 0 en, 1 zh, 2 styled en, 3 styled zh, -1 the empty caption."""
        ...


@dataclass(frozen=True)
class EncodedRows:
    """`Rows` of one role in memory.

    latents_nchw (N, C, H, W) float16; tokens_lnsc (2, N, S, C) and pooled_lnp (2, N, P) float16, first en then zh. A missing
    caption is the other language's.
    """

    keys: tuple[str, ...]
    latents_nchw: Tensor
    tokens_lnsc: Tensor
    pooled_lnp: Tensor
    min_timestep_n: Tensor
    preset_n: Tensor
    empty_tokens_sc: Tensor
    empty_pooled_p: Tensor

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def styled_n(self) -> Tensor:
        return torch.zeros(len(self), dtype=torch.bool)

    def latents(self, rows: Sequence[int]) -> Tensor:
        return self.latents_nchw[list(rows)].float()

    def lower(self, rows: Sequence[int]) -> Tensor | None:
        return None

    def captions(self, rows: Sequence[int], variants: Sequence[int]) -> tuple[Tensor, Tensor]:
        index, variant = torch.tensor(rows), torch.tensor(variants)
        tokens, pooled = self.tokens_lnsc[variant, index], self.pooled_lnp[variant, index]
        tokens[variant == EMPTY], pooled[variant == EMPTY] = self.empty_tokens_sc, self.empty_pooled_p
        return tokens.float(), pooled.float()


def load_rows(folder: Path, role: Role) -> EncodedRows:
    """Read the training split of one role.

    Raises:
        UserError: the encoded dataset is unfinished, or holds no row for that role.
    """
    manifest = Manifest.load(folder)
    table = pa.concat_tables([pq.read_table(part) for part in parts(folder, role)])
    table = table.filter(pc.equal(table["split"], "train")).sort_by("key")
    if table.num_rows == 0:
        raise UserError(f"The encoded dataset {folder.name} has no training rows for the {role} generator.")
    encoders = manifest.encoders
    side = manifest.resolutions[role] // encoders.spatial_factor
    empty = load_file(folder / "empty_caption.safetensors")
    text_shape = (table.num_rows, encoders.max_tokens, encoders.context_channels)
    return EncodedRows(
        keys=tuple(table["key"].to_pylist()),
        latents_nchw=_tensor(table["latents"], (table.num_rows, encoders.latent_channels, side, side)),
        tokens_lnsc=torch.stack([_tensor(table[f"tokens_{language}"], text_shape) for language in LANGUAGES]),
        pooled_lnp=torch.stack(
            [_tensor(table[f"pooled_{language}"], (table.num_rows, encoders.pooled_channels)) for language in LANGUAGES]
        ),
        min_timestep_n=torch.tensor(table["min_timestep"].to_pylist(), dtype=torch.int64),
        preset_n=torch.tensor(table["preset"].to_pylist(), dtype=torch.int64),
        empty_tokens_sc=empty["tokens"][0].half(),
        empty_pooled_p=empty["pooled"][0].half(),
    )


def _tensor(column: pa.ChunkedArray, shape: Sequence[int]) -> Tensor:
    """A column of half-precision bytes as one tensor."""
    data = b"".join(value.as_py() for value in column)
    return torch.from_numpy(np.frombuffer(data, dtype=np.float16).reshape(*shape).copy())
