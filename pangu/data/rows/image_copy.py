"""The local copy of the images of one training job: their bytes one after another, and a table that says where each lies.

Read from the dataset's table at the pinned version. Where there is no room for the bytes, the table says where each lies in the
dataset's own files, and images are fetched from there, ahead of the steps that need them.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from pangu.data.captions import TEXT_COLUMNS
from pangu.data.card import Split
from pangu.data.encode.encode_plan import original_side
from pangu.data.encode.pixels import fit_pixels
from pangu.data.encode.views import JobData, View
from pangu.data.rows.image_places import spans_of
from pangu.data.rows.local_cache import map_rows, write_rows
from pangu.data.rows.read_ahead import ByteRange, ReadAhead
from pangu.data.table.delta import data_files
from pangu.data.table.rows_file import RowsFile, bytes_of
from pangu.data.table.schema import with_lacking
from pangu.data.table.store import addressed, unaddressed
from pangu.storage import Home, read_json, write_json

FILES = "files.json"
FORMAT = 2
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
        """The size of the files and of the images of their rows."""
        return bytes_of(self.files)

    def write(self, folder: Path) -> None:
        """Fill `folder`, the images of one row group at a time in memory."""
        with (folder / "images.bin").open("wb") as sink:
            write_rows(folder, self._written(sink))

    def _written(self, sink: BinaryIO) -> Iterator[pa.Table]:
        """What is known of the rows of one group after the other, whose images are in the file now."""
        end = 0
        for source, group in self._groups():
            rows = self._chosen(_read(source, group, ["image"]))
            lengths = [sink.write(image) for image in rows["image"].to_pylist()]
            ends = end + np.cumsum(np.asarray([0, *lengths], np.int64))
            end = int(ends[-1])
            yield self._facts(rows, start=ends[:-1], end=ends[1:])

    def write_places(self, folder: Path) -> None:
        """Fill `folder` with all but the images, of which it says in which of the listed files each lies, and where."""
        files = dict[str, int]()
        write_rows(folder, self._placed(files))
        write_json(folder / FILES, [unaddressed(address) for address in files])

    def _placed(self, files: dict[str, int]) -> Iterator[pa.Table]:
        """As `_written`, with the number that each file has in `files`."""
        for source, group in self._groups():
            addresses, codes, numbers = source.image_rows(group)
            start, end = np.empty(len(numbers), np.int64), np.empty(len(numbers), np.int64)
            for code, address in enumerate(addresses):
                mine, (first, last) = codes == code, spans_of(address)
                start[mine], end[mine] = first[numbers[mine]], last[numbers[mine]]
            own = np.asarray([files.setdefault(address, len(files)) for address in addresses], np.int64)
            rows = _read(source, group)
            for name, values in (("file", own[codes]), ("start", start), ("end", end)):
                rows = rows.append_column(name, pa.array(values))
            rows = self._chosen(rows)
            yield self._facts(rows, **{name: rows[name].to_numpy() for name in ("start", "end", "file")})

    def _groups(self) -> Iterator[tuple[RowsFile, int]]:
        """Each file and each of its row groups."""
        for file in self.files:
            with RowsFile(file) as source:
                yield from ((source, group) for group in range(source.num_row_groups))

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


def _read(source: RowsFile, group: int, more: Sequence[str] = ()) -> pa.Table:
    """The facts of one row group, null where the file does not know them, and `more`."""
    present = [name for name in FACTS if name in source.schema_arrow.names]
    return with_lacking(source.read_row_group(group, columns=[*present, *more]), FACTS)


class Images:
    """The images of a finished copy, decoded when they are asked for; `table` and `numbers` list them by key.

    A copy of places only says in which files they lie.
    """

    def __init__(self, copy: Path, view: View, threads: int) -> None:
        self.table, self.numbers = map_rows(copy)
        self._start, self._end, self.shape_n = (self.numbers[name] for name in ("start", "end", "shape"))
        self._view, self._pool = view, ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._ahead: ReadAhead | None = None
        if "file" in self.numbers:
            self._file, self._ahead = (
                self.numbers["file"],
                ReadAhead([addressed(file) for file in read_json(copy / FILES)]),
            )
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
