"""Image files: encoded images, written once, by whoever made them, and never again. A version's rows say where theirs lie.

Named by the work that made them and apart for originals and upscaled images, so that many versions share them and whoever wants
originals opens no file of upscaled ones.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pangu.data.table.schema import FACTS, PARTITION, PLACE, STORED
from pangu.data.table.store import TableStore, located, unaddressed
from pangu.errors import UserError

FOLDER = "_images"
"""Below the folder of the table. What begins with '_' is not of the table, so Delta's own vacuum passes it over."""
GROUP_BYTES = 32 << 20
"""Bytes of images that are written, and later read, together: whoever places rows hands over about so many."""
_SCHEMA = pa.schema([("key", pa.string()), ("image_file", pa.string()), ("image", pa.binary())])
"""`key` and `image_file` are what other readers join on."""


class Placer:
    """Takes rows with images and gives them back with places; see `placing`."""

    def __init__(self, store: TableStore, folder: str, stem: str, opened: ExitStack) -> None:
        self._store, self._folder, self._stem, self._opened = store, folder, stem, opened
        self._writers: dict[str, pq.ParquetWriter] = {}
        self.rows = Counter[str]()
        """How many images each file holds."""

    def place(self, rows: pa.Table) -> pa.Table:
        """Write the images of rows (schema `SCHEMA`) in their order, originals and upscaled ones apart, each as one row group.

        Returns:
            The originals, then the others, schema `STORED`.
        """
        parts = [self._place(rows.filter(pc.equal(rows[PARTITION], upscaled)), upscaled) for upscaled in (False, True)]
        return pa.concat_tables(parts)

    def _place(self, rows: pa.Table, upscaled: bool) -> pa.Table:
        # Not named as partitions are: readers would make a second column `upscaled` of it.
        file = f"{FOLDER}/{self._folder}/{'upscaled' if upscaled else 'originals'}/{self._stem}.parquet"
        names = pa.array([file] * rows.num_rows, pa.string())
        start = self.rows[file]
        numbers = pa.array(np.arange(start, start + rows.num_rows, dtype=np.int32))
        if rows.num_rows:
            if file not in self._writers:
                # Encoded images do not compress again; trying costs time at every read.
                layout: dict[str, Any] = {"compression": {"key": "zstd", "image_file": "zstd", "image": "none"}}
                layout |= {"use_dictionary": ["image_file"], "write_statistics": ["key"]}
                self._writers[file] = self._opened.enter_context(self._store.parquet_writer(file, _SCHEMA, **layout))
            images = pa.table([rows["key"], names, rows["image"]], schema=_SCHEMA)
            self._writers[file].write_table(images, row_group_size=rows.num_rows)
            self.rows[file] += rows.num_rows
        lengths = pc.binary_length(rows["image"]).cast(pa.int32())
        facts = {name: rows[name] for name in FACTS}
        places = zip((name for name, _ in PLACE), (names, numbers, lengths), strict=True)
        return pa.table(facts | dict(places), schema=STORED)


@contextmanager
def placing(store: TableStore, folder: str, stem: str) -> Iterator[Placer]:
    """Image files that appear, whole and on the disk, when the block ends without an error.

    folder, stem: what made the images, and which part of it: the same names hold the same images.

    Raises:
        UserError: the disk is full, or the bucket cannot be reached.
    """
    with ExitStack() as opened:
        yield Placer(store, folder, stem, opened)


class ImageReader:
    """Reads images by place; keeps the row group that it read last, because neighbours come one after the other.

    root: address of the table's folder.
    """

    def __init__(self, root: str) -> None:
        filesystem, [self._root] = located([root])
        self._group = lru_cache(maxsize=1)(lambda file, group: _read_group(self._path(file), filesystem, group))
        self._starts = lru_cache(maxsize=64)(lambda file: _starts(self._path(file), filesystem))

    def _path(self, file: str) -> str:
        return f"{self._root}/{file}"

    def read(self, places: pa.Table) -> pa.ChunkedArray:
        """The images at `image_file` and `image_row`, in that order.

        Raises:
            UserError: an image file is gone.
        """
        files, rows = places["image_file"].combine_chunks().dictionary_encode(), places["image_row"].to_numpy()
        codes = files.indices.to_numpy()
        found: list[Any] = []
        order: list[np.ndarray] = []
        for code, file in enumerate(files.dictionary.to_pylist()):
            mine = np.flatnonzero(codes == code)
            groups = np.searchsorted(self._starts(file), rows[mine], "right") - 1
            for group in np.unique(groups):
                there = mine[groups == group]
                inside = rows[there] - self._starts(file)[group]
                found.append(self._group(file, int(group)).take(pa.array(inside)))
                order.append(there)
        if not found:
            return pa.chunked_array([], pa.binary())
        images = pa.chunked_array(found)
        at = np.concatenate(order)
        return images if np.array_equal(at, np.arange(len(at))) else images.take(pa.array(np.argsort(at)))


def _starts(path: str, filesystem: Any) -> np.ndarray:
    """The number of the first row of each row group."""
    try:
        metadata = pq.read_metadata(path, filesystem=filesystem)
    except FileNotFoundError as error:
        raise UserError(
            f"The images in {unaddressed(path)} are gone; run `pangu prepare` again, which makes them."
        ) from error
    counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return np.cumsum([0, *counts[:-1]])


def _read_group(path: str, filesystem: Any, group: int) -> pa.Array:
    with pq.ParquetFile(path, filesystem=filesystem) as source:
        return source.read_row_group(group, columns=["image"])["image"].combine_chunks()
