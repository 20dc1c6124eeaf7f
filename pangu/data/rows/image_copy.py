"""The local copy of the images of one training job: their bytes one after another, and a table that says where each lies.

Read from the dataset's table at the pinned version. Where there is no room for the bytes, the table says where each lies in the
dataset's own files, and images are fetched from there, ahead of the steps that need them.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs

from pangu.data.captions import TEXT_COLUMNS
from pangu.data.card import Split
from pangu.data.encode.encode_plan import original_side
from pangu.data.encode.pixels import fit_pixels
from pangu.data.encode.views import JobData, View
from pangu.data.rows.image_places import PlacedGroups
from pangu.data.rows.local_cache import map_table, write_table
from pangu.data.rows.read_ahead import ByteRange, ReadAhead
from pangu.data.table.delta import data_files, located
from pangu.data.table.schema import with_lacking
from pangu.data.table.store import storage_errors
from pangu.storage import Home

FORMAT = 1
"""Raise it whenever the local copy changes its shape."""
FACTS = [
    "key", *TEXT_COLUMNS, "min_timestep", "width", "height", "original_width", "original_height", "split",
]  # fmt: skip


@dataclass(frozen=True)
class ImageCopy:
    """What the copy will hold, and how it is written. Files of upscaled rows are opened only for a job that trains on them."""

    files: Sequence[str]
    data: JobData
    split: Split = "train"

    @classmethod
    def of(cls, home: Home, dataset: str, version: int, data: JobData, split: Split = "train") -> "ImageCopy":
        return cls([file for one in data.partitions for file in data_files(home, dataset, version, one)], data, split)

    @property
    def needed_bytes(self) -> int:
        """The size of the files, which is mostly that of the images."""
        return sum(info.size for info in self._filesystem.get_file_info(self._paths))

    def write(self, folder: Path) -> None:
        """Fill `folder`, the images of one row group at a time in memory."""
        tables, end = [], 0
        with (folder / "images.bin").open("wb") as sink:
            for source, group, _ in self._groups():
                rows = self._chosen(
                    with_lacking(source.parquet.read_row_group(group, columns=self._columns(source)), FACTS)
                )
                lengths = [sink.write(image) for image in rows["image"].to_pylist()]
                ends = end + np.cumsum(np.asarray([0, *lengths], np.int64))
                end = int(ends[-1])
                tables.append(self._facts(rows, start=ends[:-1], end=ends[1:]))
        _write_rows(folder, tables)

    def write_places(self, folder: Path) -> None:
        """Fill `folder` with all but the images, of which it says in which of `files` each lies, and where."""
        tables = []
        for source, group, number in self._groups():
            start, end = source.starts(group)
            rows = with_lacking(source.parquet.read_row_group(group, columns=self._columns(source)[:-1]), FACTS)
            for name, values in (("start", start), ("end", end), ("file", np.full(len(start), number))):
                rows = rows.append_column(name, pa.array(values, pa.int64()))
            rows = self._chosen(rows)
            tables.append(self._facts(rows, **{name: rows[name].to_numpy() for name in ("start", "end", "file")}))
        _write_rows(folder, tables)

    def _groups(self) -> Iterator[tuple[PlacedGroups, int, int]]:
        """Each file, each of its row groups, and the number of the file."""
        for number, (file, path) in enumerate(zip(self.files, self._paths, strict=True)):
            with storage_errors(file), self._filesystem.open_input_file(path) as opened:
                source = PlacedGroups(opened, path)
                yield from ((source, group, number) for group in range(source.parquet.num_row_groups))

    def _columns(self, source: PlacedGroups) -> list[str]:
        return [*(name for name in FACTS if name in source.parquet.schema_arrow.names), "image"]

    def _chosen(self, rows: pa.Table) -> pa.Table:
        """The rows of the split that are large enough."""
        chosen = np.asarray(rows["split"]) == self.split
        return rows.filter(pa.array(chosen & (original_side(rows) >= self.data.min_original_side)))

    def _facts(self, rows: pa.Table, **places: np.ndarray) -> pa.Table:
        sizes = zip(rows["height"].to_pylist(), rows["width"].to_pylist(), strict=True)
        shape = np.asarray([self.data.view.preset_of(*size) for size in sizes], np.int64)
        facts = rows.select(["key", *TEXT_COLUMNS])
        columns = {"min_timestep": np.asarray(rows["min_timestep"], np.int64), "shape": shape}
        for name, values in (columns | {"preset": np.asarray(self.data.trained, np.int64)[shape]} | places).items():
            facts = facts.append_column(name, pa.array(values))
        return facts

    @property
    def _filesystem(self) -> Any:
        return located(list(self.files))[0] or pyarrow.fs.LocalFileSystem()

    @property
    def _paths(self) -> list[str]:
        return located(list(self.files))[1]


def _write_rows(folder: Path, tables: Sequence[pa.Table]) -> None:
    write_table(folder / "rows.arrow", pa.concat_tables(tables).sort_by("key"))


class Images:
    """The images of a finished copy, decoded when they are asked for; `table` lists them by key.

    files: of the dataset, where the copy only says where they lie in these.
    """

    def __init__(self, copy: Path, view: View, threads: int, files: Sequence[str] = ()) -> None:
        self.table = map_table(copy / "rows.arrow")
        self._start, self._end, self.shape_n = (self.table[name].to_numpy() for name in ("start", "end", "shape"))
        self._view, self._pool = view, ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._ahead: ReadAhead | None = None
        if "file" in self.table.column_names:
            self._file, self._ahead = self.table["file"].to_numpy(), ReadAhead(files)
        else:
            self._bytes = np.memmap(copy / "images.bin", np.uint8, "r")

    def expect(self, rows: Sequence[int]) -> None:
        """These are asked for soon."""
        if self._ahead is not None:
            self._ahead.expect(map(self._range, rows))

    def _range(self, row: int) -> ByteRange:
        return ByteRange(int(self._file[row]), int(self._start[row]), int(self._end[row]))

    def _image(self, row: int) -> bytes:
        if self._ahead is not None:
            return self._ahead.read(self._range(row))
        return self._bytes[self._start[row] : self._end[row]].tobytes()

    def size_of(self, rows: Sequence[int]) -> tuple[int, int]:
        """(height, width) in px that all of these rows share."""
        shapes = set(self.shape_n[np.asarray(rows)].tolist())
        assert len(shapes) == 1, f"rows of shapes {shapes} in one batch"
        return self._view.sizes[shapes.pop()]

    def pixels(self, rows: Sequence[int]) -> np.ndarray:
        """(B, H, W, 3) uint8 of rows of one shape, fitted to it."""
        height, width = self.size_of(rows)
        pixels = np.empty((len(rows), height, width, 3), np.uint8)

        def decode(place: int) -> None:
            pixels[place] = fit_pixels(self._image(rows[place]), height, width)

        list(self._pool.map(decode, range(len(rows))))
        return pixels
