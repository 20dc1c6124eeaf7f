"""The files that make up a version: rows of one partition, with the places of their images; nobody sees them before a commit."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pangu.config import Frozen
from pangu.data.table.placed_images import GROUP_BYTES, placing
from pangu.data.table.schema import PARTITION, SCHEMA, STORED, with_nulls
from pangu.data.table.store import TableStore
from pangu.errors import UserError

FILE_ROWS = 1 << 17
"""So many rows, and a few more, lie in one file."""
WAITING_ROWS = 1 << 14
"""So many rows wait in memory before they are written."""
_NO_STATISTICS = ("phash", "key", "colours")
_BOUNDED = ("width", "height", "original_width", "original_height", "bucket", "min_timestep", "split")


class DataFile(Frozen):
    """A Parquet file that was written into the table's folder and waits for its commit.

    images: the folders of image files that its rows refer to.
    """

    path: str
    size: int
    rows: int
    upscaled: bool
    statistics: str
    images: tuple[str, ...] = ()


class PartWriter:
    """Writes rows (schema `STORED`) of one partition, in their order, as one file or several: `files`, when it is closed.

    Args:
        stem: Unique to this transaction: what is written again replaces its own leftovers.

    Raises:
        UserError: the disk is full, or the store cannot be reached.
    """

    def __init__(self, store: TableStore, stem: str, upscaled: bool) -> None:
        self.files: list[DataFile] = []
        self._store, self._stem, self._upscaled = store, stem, upscaled
        self._waiting: list[pa.Table] = []
        self._open: _OpenFile | None = None

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self._flush()
            self._end_file()
        elif self._open is not None:
            self._open.stack.__exit__(kind, error, at)

    def add(self, rows: pa.Table) -> None:
        self._waiting.append(rows)
        if sum(one.num_rows for one in self._waiting) >= WAITING_ROWS:
            self._flush()

    def _flush(self) -> None:
        rows = pa.concat_tables(self._waiting) if self._waiting else STORED.empty_table()
        self._waiting = []
        if not rows.num_rows:
            return
        if self._open is None:
            number = len(self.files)
            self._open = _OpenFile(
                self._store, f"{PARTITION}={str(self._upscaled).lower()}/{self._stem}-{number:05d}.parquet"
            )
        self._open.write(with_nulls(rows))
        if self._open.rows >= FILE_ROWS:
            self._end_file()

    def _end_file(self) -> None:
        if self._open is not None:
            self.files.append(self._open.close(self._upscaled))
            self._open = None


class _OpenFile:
    def __init__(self, store: TableStore, path: str) -> None:
        self.rows, self.stack = 0, ExitStack()
        self._store, self._path = store, path
        self._images = set[str]()
        self._bounds: list[pa.Table] = []
        scalars = [name for name in STORED.names if name not in _NO_STATISTICS]
        self._writer: pq.ParquetWriter = self.stack.enter_context(
            store.parquet_writer(
                path,
                STORED,
                compression="zstd",
                use_dictionary=[name for name in scalars if name not in ("caption_en", "caption_zh", "source_url")],
                write_statistics=scalars,
            )
        )

    def write(self, rows: pa.Table) -> None:
        self._writer.write_table(rows, row_group_size=rows_per_group(rows))
        self.rows += rows.num_rows
        self._images |= {file.split("/")[1] for file in rows["image_file"].unique().to_pylist()}
        self._bounds.append(_bounds(rows))

    def close(self, upscaled: bool) -> DataFile:
        self.stack.close()
        size = self._store.size(self._path)
        assert size is not None
        statistics = json.dumps(_statistics(pa.concat_tables(self._bounds), self.rows))
        return DataFile(
            path=self._path, size=size, rows=self.rows, upscaled=upscaled, statistics=statistics,
            images=tuple(sorted(self._images)),
        )  # fmt: skip


def rows_per_group(rows: pa.Table) -> int:
    """Groups whose images take about `GROUP_BYTES`: large enough to read in one go, small enough to shuffle by."""
    per_row = max(1, (pc.sum(rows["image_bytes"]).as_py() or 0) // max(1, rows.num_rows))
    return int(min(4096, max(16, GROUP_BYTES // per_row)))


def _bounds(rows: pa.Table) -> pa.Table:
    """The smallest and the largest value of each column that queries select by, and how many are null, in one row."""
    found: dict[str, Any] = {}
    for name in _BOUNDED:
        bound = pc.min_max(rows[name])
        found |= {f"min {name}": [bound["min"].as_py()], f"max {name}": [bound["max"].as_py()]}
        found[f"null {name}"] = [rows[name].null_count]
    kinds = {field.name: field.type for field in STORED}
    types = {key: pa.int64() if key.startswith("null") else kinds[key.split()[1]] for key in found}
    return pa.table({key: pa.array(value, types[key]) for key, value in found.items()})


def _statistics(bounds: pa.Table, rows: int) -> Mapping[str, Any]:
    """Delta's per-file statistics: row count, and bounds of the columns that queries select by."""
    return {
        "numRecords": rows,
        "minValues": {name: pc.min(bounds[f"min {name}"]).as_py() for name in _BOUNDED},
        "maxValues": {name: pc.max(bounds[f"max {name}"]).as_py() for name in _BOUNDED},
        "nullCount": {name: pc.sum(bounds[f"null {name}"]).as_py() for name in _BOUNDED},
    }


def write_part(store: TableStore, stem: str, rows: pa.Table, upscaled: bool) -> DataFile:
    """Write rows (schema `SCHEMA`) of one partition with their images, as one file of rows and one of images.

    Raises:
        UserError: a column is missing, unknown or of another type, the disk is full, or the store cannot be reached.
    """
    with placing(store, stem, "00000") as placer, PartWriter(store, stem, upscaled) as writer:
        checked, step = _checked(rows), rows_per_group(_lengths(rows))
        for start in range(0, rows.num_rows, step):
            writer.add(placer.place(checked.slice(start, step)))
    [file] = writer.files
    return file


def _lengths(rows: pa.Table) -> pa.Table:
    return pa.table({"image_bytes": pc.binary_length(rows["image"])})


def _checked(rows: pa.Table) -> pa.Table:
    """Rows whose schema is exactly `SCHEMA`."""
    for field in SCHEMA:
        if field.name not in rows.column_names:
            raise UserError(f"Dataset rows lack the column '{field.name}' ({field.type}).")
        if (found := rows.schema.field(field.name).type) != field.type:
            raise UserError(f"Column '{field.name}' of dataset rows has type {found}; it must be {field.type}.")
    if unknown := [name for name in rows.column_names if name not in SCHEMA.names]:
        raise UserError(f"Dataset rows have no column '{unknown[0]}'; they have {', '.join(SCHEMA.names)}.")
    return rows.select(SCHEMA.names)
