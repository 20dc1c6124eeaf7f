"""The local copy of the rows of one training job: a column of latents per preset, and columns of token and pooled
embeddings, or the texts themselves where training words them anew.

Owns how Parquet files become those columns. Rows lie in the files' order; what is known of each is listed by key.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pangu.config import Role
from pangu.data.captions import LANGUAGES, TEXT_COLUMNS
from pangu.data.card import Split
from pangu.data.encode.edges import packed_width
from pangu.data.encode.encoded import EncodedManifest
from pangu.data.rows.local_cache import Column, write_rows

FORMAT = 2
"""Raise it whenever the local copy changes its shape."""
COUNTS = "captions"
COUNTED = ["split", "preset", "original_side", "styled", COUNTS]
"""What is read to know how large the columns are."""


class LocalCopy:
    """What the copy will hold, and how it is written."""

    def __init__(self, manifest: EncodedManifest, role: Role, files: Sequence[Path], split: Split = "train") -> None:
        self._encoders, self._data, self._files, self._split = manifest.encoders, manifest.job(role), files, split
        self._embedded = manifest.text == "precomputed"

    def __len__(self) -> int:
        return self._counts.rows

    @property
    def needed_bytes(self) -> int:
        """The size of all columns."""
        return sum(
            rows * int(np.prod(shape)) * _dtype(name)().itemsize for name, (rows, shape) in self._columns.items()
        )

    def write(self, folder: Path) -> None:
        """Fill `folder`, one row group at a time in memory."""
        with ExitStack() as stack:
            columns = {
                name: stack.enter_context(closing(Column(folder / f"{name}.npy", rows, shape, _dtype(name))))
                for name, (rows, shape) in self._columns.items()
            }
            write_rows(folder, self._written(columns))

    def _written(self, columns: Mapping[str, Column]) -> Iterator[pa.Table]:
        """What is known of the rows of one row group after the other, whose values are in the columns now."""
        places = _Places()
        for table in _groups(self._files):
            rows = with_counts(table.filter(pa.array(self._mask(table))))
            for name, values in self._values(rows):
                columns[name].extend(values)
            yield self._facts(rows, places)

    def _mask(self, table: pa.Table) -> np.ndarray:
        """(N,) which rows of a file are those of the job and the split."""
        chosen = np.asarray(table["split"]) == self._split
        return chosen & (np.asarray(table["original_side"]) >= self._data.min_original_side)

    def _facts(self, rows: pa.Table, places: "_Places") -> pa.Table:
        """Key, lowest timestep, trained preset, and the row's place in each kind of column or its texts."""
        preset = np.asarray(self._data.trained, np.int64)[np.asarray(rows["preset"])]
        texts = places.of_texts(rows) if self._embedded else {name: rows[name] for name in TEXT_COLUMNS}
        facts = {"key": rows["key"], "min_timestep": np.asarray(rows["min_timestep"], np.int64), "preset": preset}
        return pa.table({**facts, "slot": places.of_presets(preset), **texts})

    @cached_property
    def _counts(self) -> "_Counts":
        """Read from the files without their latents."""
        counts = _Counts()
        for file in self._files:
            with pq.ParquetFile(file, pre_buffer=False) as source:
                names = [name for name in COUNTED if name in source.schema_arrow.names]
                for batch in source.iter_batches(columns=names):
                    rows = with_counts(pa.table(batch))
                    counts.add(rows.filter(pa.array(self._mask(rows))), self._data.trained)
        return counts

    @cached_property
    def _columns(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Rows and shape of a row of each column."""
        encoders = self._encoders
        columns: dict[str, tuple[int, tuple[int, ...]]] = {}
        for preset, count in sorted(self._counts.presets.items()):
            height, width = self._data.view.sizes[self._data.trained.index(preset)]
            shape = encoders.latent_channels, height // encoders.spatial_factor, width // encoders.spatial_factor
            columns[f"latents-{preset}"] = count, shape
            if self._data.view.lower_sizes is not None:
                columns[f"lower-{preset}"] = count, shape
            if self._data.view.control is not None:
                columns[f"control-{preset}"] = count, (height, packed_width(width))
        return columns | (self._embeddings() if self._embedded else {})

    def _embeddings(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """The columns of embeddings among those of `_columns`."""
        encoders = self._encoders
        columns: dict[str, tuple[int, tuple[int, ...]]] = {}
        for name, rows in (("", self._counts.captions), ("styled_", self._counts.styled)):
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
        for kind in ("tokens", "pooled") if self._embedded else ():
            size = 2 * int(np.prod(self._columns[kind][1][1:]))
            yield kind, _in_turn([rows[f"{kind}_{language}"].to_pylist() for language in LANGUAGES], size)
            if f"{kind}_styled_en" in rows.column_names:
                styled = [rows[f"{kind}_styled_{language}"].drop_null().to_pylist() for language in LANGUAGES]
                yield f"styled_{kind}", _in_turn(styled, size)


def _groups(files: Sequence[Path]) -> Iterator[pa.Table]:
    """The row groups of all files: a part each, where parts were joined."""
    for file in files:
        with pq.ParquetFile(file) as source:
            yield from (source.read_row_group(group) for group in range(source.num_row_groups))


@dataclass
class _Counts:
    """Rows in all, of each preset; captions, and those with a style."""

    rows: int = 0
    presets: Counter[int] = field(default_factory=Counter)
    captions: int = 0
    styled: int = 0

    def add(self, rows: pa.Table, trained: Sequence[int]) -> None:
        captions = np.asarray(rows[COUNTS], np.int64)
        self.rows += rows.num_rows
        self.presets.update(np.asarray(trained, np.int64)[np.asarray(rows["preset"])].tolist())
        self.captions += int(captions.sum())
        self.styled += int(captions[np.asarray(rows["styled"])].sum()) if "styled" in rows.column_names else 0


class _Places:
    """Where the rows of one group after the other lie in the columns."""

    def __init__(self) -> None:
        self._presets, self._captions, self._styled = Counter[int](), 0, 0

    def of_presets(self, preset: np.ndarray) -> np.ndarray:
        """(N,) how many rows of the same preset stand before each."""
        places = np.empty(len(preset), np.int64)
        for value in np.unique(preset).tolist():
            where = np.flatnonzero(preset == value)
            places[where] = self._presets[value] + np.arange(len(where))
            self._presets[value] += len(where)
        return places

    def of_texts(self, rows: pa.Table) -> dict[str, np.ndarray]:
        """Where the first caption of each row lies in the columns of embeddings and of styled ones, and how many it has."""
        styled, captions = np.asarray(rows["styled"]), np.asarray(rows[COUNTS], np.int64)
        text = self._captions + np.cumsum(captions) - captions
        style = np.where(styled, self._styled + np.cumsum(captions * styled) - captions, -1)
        self._captions += int(captions.sum())
        self._styled += int((captions * styled).sum())
        return {"text": text, "style": style, COUNTS: captions}


def with_counts(rows: pa.Table) -> pa.Table:
    """Rows with how many captions each has in a language: one, where they were encoded before there could be more."""
    return (
        rows if COUNTS in rows.column_names else rows.append_column(COUNTS, pa.array([1] * rows.num_rows, pa.int32()))
    )


def _dtype(column: str) -> type[np.generic]:
    """Of a column's elements: control images are packed bits."""
    return np.uint8 if column.startswith("control") else np.float16


def _in_turn(lists: Sequence[list[bytes]], size: int) -> list[bytes]:
    """The first `size` bytes of the first value of each list, then its next, and so on with the second value."""
    return [
        value[start : start + size]
        for row in zip(*lists, strict=True)
        for start in range(0, len(row[0]), size)
        for value in row
    ]
