"""The local copy of the images of one training job: their bytes one after another, and a table that says where each lies.

Read from the dataset's table at the pinned version.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pangu.data.captions import TEXT_COLUMNS
from pangu.data.card import Split
from pangu.data.encode.encode_plan import original_side
from pangu.data.encode.pixels import fit_pixels
from pangu.data.encode.views import JobData, View
from pangu.data.rows.local_cache import map_table, write_table
from pangu.data.table.delta import data_files
from pangu.data.table.rows_file import RowsFile, bytes_of
from pangu.data.table.schema import with_lacking
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
        """The size of the files and of the images of their rows."""
        return bytes_of(self.files)

    def write(self, folder: Path) -> None:
        """Fill `folder`, one row group at a time in memory."""
        tables, end = [], 0
        with (folder / "images.bin").open("wb") as sink:
            for rows in self._groups():
                lengths = [sink.write(image) for image in rows["image"].to_pylist()]
                ends = end + np.cumsum(np.asarray([0, *lengths], np.int64))
                end = int(ends[-1])
                sizes = zip(rows["height"].to_pylist(), rows["width"].to_pylist(), strict=True)
                shape = np.asarray([self.data.view.preset_of(*size) for size in sizes], np.int64)
                facts = rows.select(["key", *TEXT_COLUMNS, "min_timestep"])
                columns = {"shape": shape, "preset": np.asarray(self.data.trained, np.int64)[shape]}
                columns |= {"start": ends[:-1], "end": ends[1:]}
                for name, values in columns.items():
                    facts = facts.append_column(name, pa.array(values))
                tables.append(facts)
        write_table(folder / "rows.arrow", pa.concat_tables(tables).sort_by("key"))

    def _groups(self) -> Iterator[pa.Table]:
        """The split's rows of each row group, with their images."""
        for file in self.files:
            with RowsFile(file) as source:
                present = [name for name in FACTS if name in source.schema_arrow.names]
                for group in range(source.num_row_groups):
                    rows = with_lacking(source.read_row_group(group, columns=[*present, "image"]), FACTS)
                    chosen = np.asarray(rows["split"]) == self.split
                    yield rows.filter(pa.array(chosen & (original_side(rows) >= self.data.min_original_side)))


class Images:
    """The images of a finished copy, decoded when they are asked for; `table` lists them by key."""

    def __init__(self, copy: Path, view: View, threads: int) -> None:
        self.table = map_table(copy / "rows.arrow")
        self._bytes = np.memmap(copy / "images.bin", np.uint8, "r")
        self._start, self._end, self.shape_n = (self.table[name].to_numpy() for name in ("start", "end", "shape"))
        self._view, self._pool = view, ThreadPoolExecutor(threads, thread_name_prefix="decode")

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
            row = rows[place]
            pixels[place] = fit_pixels(self._bytes[self._start[row] : self._end[row]].tobytes(), height, width)

        list(self._pool.map(decode, range(len(rows))))
        return pixels
