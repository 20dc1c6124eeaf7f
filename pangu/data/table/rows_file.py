"""One Parquet file of rows as if it held their images: versions say where images lie, those of before hold them."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import pyarrow.parquet as pq

from pangu.data.table.placed_images import ImageReader
from pangu.data.table.schema import PLACE, SCHEMA
from pangu.data.table.store import addressed, located, unaddressed

_PLACES = [name for name, _ in PLACE]


class RowsFile:
    """Reads a file of `data_files` by the names that `pyarrow.parquet.ParquetFile` has for it.

    Args:
        address: An absolute path, or a URI that pyarrow opens.
        table: The folder of the table that its images lie in; None for a file of that table itself.
    """

    def __init__(self, address: str, table: str | None = None) -> None:
        filesystem, [path] = located([address])
        self._address = address
        self._source = pq.ParquetFile(path, filesystem=filesystem)
        self._table = addressed(table or unaddressed(address).rsplit("/", 2)[0])

    def __enter__(self) -> "RowsFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._source.close()

    @cached_property
    def schema_arrow(self) -> pa.Schema:
        """The columns that can be asked for."""
        fields = [field for field in self._source.schema_arrow if field.name not in _PLACES]
        return pa.schema([*fields, SCHEMA.field("image")] if self._is_placed else fields)

    @cached_property
    def _is_placed(self) -> bool:
        return "image_file" in self._source.schema_arrow.names

    @property
    def metadata(self) -> Any:
        return self._source.metadata

    @property
    def num_row_groups(self) -> int:
        return self._source.num_row_groups

    def read_row_group(self, group: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of one group, whose images take about `pangu.data.table.placed_images.GROUP_BYTES`."""
        names = list(columns or self.schema_arrow.names)
        return self._with_images(self._source.read_row_group(group, columns=self._physical(names)), names)

    def take(self, group: int, rows: Sequence[int], columns: Sequence[str] | None = None) -> pa.Table:
        """Some rows of one group; of image files, those row groups alone are read that hold one of theirs."""
        names = list(columns or self.schema_arrow.names)
        chosen = self._source.read_row_group(group, columns=self._physical(names)).take(pa.array(rows))
        return self._with_images(chosen, names)

    def image_rows(self, group: int) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Where the images of one group lie: addresses of files, which of them holds each row's (N,), and its row there (N,)."""
        if not self._is_placed:
            earlier = sum(self.metadata.row_group(at).num_rows for at in range(group))
            count = self.metadata.row_group(group).num_rows
            return [self._address], np.zeros(count, np.int64), earlier + np.arange(count)
        places = self._source.read_row_group(group, columns=_PLACES)
        files = places["image_file"].combine_chunks().dictionary_encode()
        addresses = [addressed(f"{unaddressed(self._table)}/{file}") for file in files.dictionary.to_pylist()]
        return addresses, files.indices.to_numpy(), places["image_row"].to_numpy()

    def iter_batches(self, rows: int, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All rows, so many at a time in memory."""
        names = list(columns or self.schema_arrow.names)
        for batch in self._source.iter_batches(rows, columns=self._physical(names)):
            yield self._with_images(pa.table(batch), names)

    def _physical(self, names: list[str]) -> list[str]:
        if not self._is_placed or "image" not in names:
            return names
        return [*(name for name in names if name != "image"), *_PLACES]

    def _with_images(self, rows: pa.Table, names: list[str]) -> pa.Table:
        if self._is_placed and "image" in names:
            rows = rows.append_column(SCHEMA.field("image"), self._images.read(rows))
        return rows.select(names)

    @cached_property
    def _images(self) -> ImageReader:
        return ImageReader(self._table)


def bytes_of(files: Sequence[str]) -> int:
    """What files of `data_files` and the images of their rows take together."""
    total = 0
    filesystem, paths = located(list(files)) if files else (None, [])
    for path, info in zip(paths, (filesystem or pyarrow.fs.LocalFileSystem()).get_file_info(paths), strict=True):
        total += info.size
        with pq.ParquetFile(path, filesystem=filesystem) as source:
            if "image_bytes" in source.schema_arrow.names:
                for batch in source.iter_batches(65_536, columns=["image_bytes"]):
                    total += pc.sum(batch["image_bytes"]).as_py() or 0
    return total
