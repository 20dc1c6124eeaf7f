"""What a dataset version is encoded in: chunks of rows, each of which becomes one file a view."""

import bisect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pangu.data.captions import TEXT_COLUMNS
from pangu.data.encode.encoded import (
    MERGED,
    EncodedManifest,
    TextKind,
    numbers_of,
    part_file,
    partition_folder,
    parts_in,
)  # fmt: skip
from pangu.data.encode.views import View
from pangu.data.table.delta import data_files
from pangu.data.table.rows_file import RowsFile
from pangu.storage import Home

CHUNK_ROWS = 64
COLUMNS = [
    "key", "image", "width", "height", "original_width", "original_height", "min_timestep", "split", *TEXT_COLUMNS,
]  # fmt: skip


@dataclass(frozen=True)
class Order:
    """What is to be made of one partition: a file per view and chunk."""

    folder: Path
    upscaled: bool
    views: dict[View, int]  # and the smallest original side that a job asks of it
    text: TextKind

    def place(self, view: View) -> Path:
        """The folder of its files under a view."""
        return partition_folder(self.folder, view, self.upscaled)


@dataclass(frozen=True)
class Chunk:
    """Rows `start` ... `start + rows` of a row group of a file of the dataset, and the name that its files carry.

    merged: the views whose part of these rows lies in a large file already.
    """

    order: Order
    file: str
    group: int
    start: int
    rows: int
    stem: str
    merged: frozenset[View] = frozenset()

    @property
    def paths(self) -> dict[View, Path]:
        """Its file of each view."""
        return {view: part_file(self.order.place(view), self.stem) for view in self.order.views}

    def missing(self) -> dict[View, Path]:
        """The files of this chunk that are not there yet, neither by themselves nor in a large one."""
        return {view: path for view, path in self.paths.items() if view not in self.merged and not path.is_file()}

    def read(self) -> pa.Table:
        """Its rows, with their images."""
        return _read_group(self.file, self.group).slice(self.start, self.rows)


@lru_cache(maxsize=1)
def _read_group(file: str, group: int) -> pa.Table:
    """The chunks of a group are read one after the other, as a rule."""
    with RowsFile(file) as source:
        return source.read_row_group(group, columns=[name for name in COLUMNS if name in source.schema_arrow.names])


def chunks_of(manifest: EncodedManifest, home: Home, folder: Path) -> Iterator[Chunk]:
    """All chunks of the dataset version that the manifest names, for files under `folder`."""
    for order in _orders(manifest, folder):
        large = {view: LargeFiles(order.place(view) / MERGED) for view in order.views}
        for number, file in enumerate(data_files(home, manifest.dataset, manifest.version, order.upscaled)):
            metadata = pq.read_metadata(file)
            for group in range(metadata.num_row_groups):
                rows = metadata.row_group(group).num_rows
                for chunk in range(math.ceil(rows / CHUNK_ROWS)):
                    start = chunk * CHUNK_ROWS
                    stem = f"{number:05d}-{group:04d}-{chunk:04d}"
                    merged = frozenset(view for view, files in large.items() if files.hold(stem))
                    yield Chunk(order, file, group, start, min(CHUNK_ROWS, rows - start), stem, merged)


class LargeFiles:
    """Which parts the large files of a folder hold, as it is now."""

    def __init__(self, folder: Path) -> None:
        self._spans = sorted(parts_in(path) for path in folder.glob("part-*.parquet"))

    def hold(self, stem: str) -> bool:
        part = numbers_of(stem)
        at = bisect.bisect_right(self._spans, part, key=lambda span: span[0])
        return at > 0 and part <= self._spans[at - 1][1]


def _orders(manifest: EncodedManifest, folder: Path) -> Iterator[Order]:
    for upscaled in (False, True):
        views: dict[View, int] = {}
        for data in manifest.jobs.values():
            if upscaled in data.partitions:
                views[data.view] = min(views.get(data.view, data.min_original_side), data.min_original_side)
        if views:
            yield Order(folder, upscaled, views, manifest.text)
