"""The local copy of the rows of one training job: a column of latents per preset, and columns of token and pooled embeddings.

Owns how Parquet files become those columns. Rows lie in the files' order; `rows.arrow` lists them by key. Knows no batches.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pangu.config import Role
from pangu.data.captions import LANGUAGES
from pangu.data.encode.edges import packed_width
from pangu.data.encode.encoded import Manifest
from pangu.data.rows.local_cache import Column, write_table

FORMAT = 1
"""Raise it whenever the local copy changes its shape."""
FACTS = ["key", "split", "min_timestep", "preset", "original_side", "styled"]


class LocalCopy:
    """What the copy will hold, and how it is written."""

    def __init__(self, manifest: Manifest, role: Role, files: Sequence[Path]) -> None:
        self._encoders, self._data, self._files = manifest.encoders, manifest.job(role), files

    def __len__(self) -> int:
        return self._rows.num_rows

    @property
    def needed_bytes(self) -> int:
        """The size of all columns."""
        return sum(
            rows * int(np.prod(shape)) * _dtype(name)().itemsize for name, (rows, shape) in self._columns.items()
        )

    def write(self, folder: Path) -> None:
        """Fill `folder`, one Parquet file at a time in memory."""
        with ExitStack() as stack:
            columns = {
                name: stack.enter_context(closing(Column(folder / f"{name}.npy", rows, shape, _dtype(name))))
                for name, (rows, shape) in self._columns.items()
            }
            for file in self._files:
                table = pq.read_table(file)
                for name, values in self._values(table.filter(pa.array(self._mask(table)))):
                    columns[name].extend(values)
        write_table(folder / "rows.arrow", self._rows.sort_by("key"))

    def _mask(self, table: pa.Table) -> np.ndarray:
        """(N,) which rows of a file the job trains on."""
        trained = np.asarray(table["split"]) == "train"
        return trained & (np.asarray(table["original_side"]) >= self._data.min_original_side)

    @cached_property
    def _rows(self) -> pa.Table:
        """Key, lowest timestep, trained preset, and the row's place in each kind of column, in the files' order."""
        tables = [pq.read_table(file, columns=FACTS) for file in self._files]
        rows = pa.concat_tables([table.filter(pa.array(self._mask(table))) for table in tables])
        trained = np.asarray(self._data.trained, np.int64)
        preset = trained[np.asarray(rows["preset"])]
        styled = np.asarray(rows["styled"])
        return pa.table(
            {
                "key": rows["key"],
                "min_timestep": np.asarray(rows["min_timestep"], np.int64),
                "preset": preset,
                "slot": _count_equal(preset),
                "text": np.arange(len(preset)),
                "style": np.where(styled, np.cumsum(styled) - 1, -1),
            }
        )

    @cached_property
    def _columns(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Rows and shape of a row of each column."""
        encoders = self._encoders
        presets, counts = np.unique(self._rows["preset"], return_counts=True)
        columns: dict[str, tuple[int, tuple[int, ...]]] = {}
        for preset, count in zip(presets.tolist(), counts.tolist(), strict=True):
            height, width = self._data.view.sizes[self._data.trained.index(preset)]
            shape = encoders.latent_channels, height // encoders.spatial_factor, width // encoders.spatial_factor
            columns[f"latents-{preset}"] = count, shape
            if self._data.view.lower_sizes is not None:
                columns[f"lower-{preset}"] = count, shape
            if self._data.view.control is not None:
                columns[f"control-{preset}"] = count, (height, packed_width(width))
        styled = int((np.asarray(self._rows["style"]) >= 0).sum())
        for name, rows in (("", len(self)), ("styled_", styled)):
            columns[f"{name}tokens"] = rows, (len(LANGUAGES), encoders.max_tokens, encoders.context_channels)
            columns[f"{name}pooled"] = rows, (len(LANGUAGES), encoders.pooled_channels)
        return columns

    def _values(self, rows: pa.Table) -> Iterator[tuple[str, list[bytes]]]:
        """The bytes that some rows add to each column."""
        presets = np.asarray(self._data.trained)[np.asarray(rows["preset"])]
        for kind in ("latents", "lower", "control"):
            if kind in rows.column_names:
                values = rows[kind].to_pylist()
                for preset in np.unique(presets).tolist():
                    yield f"{kind}-{preset}", [values[i] for i in np.flatnonzero(presets == preset)]
        for kind in ("tokens", "pooled"):
            yield kind, _in_turn([rows[f"{kind}_{language}"].to_pylist() for language in LANGUAGES])
            if f"{kind}_styled_en" in rows.column_names:
                styled = [rows[f"{kind}_styled_{language}"].drop_null().to_pylist() for language in LANGUAGES]
                yield f"styled_{kind}", _in_turn(styled)


def _dtype(column: str) -> type[np.generic]:
    """Of a column's elements: control images are packed bits."""
    return np.uint8 if column.startswith("control") else np.float16


def _count_equal(values: np.ndarray) -> np.ndarray:
    """(N,) how many equal values stand before each."""
    places = np.empty(len(values), np.int64)
    for value in np.unique(values):
        where = np.flatnonzero(values == value)
        places[where] = np.arange(len(where))
    return places


def _in_turn(lists: Sequence[list[bytes]]) -> list[bytes]:
    """The first of each list, then the second of each, and so on."""
    return [value for row in zip(*lists, strict=True) for value in row]
