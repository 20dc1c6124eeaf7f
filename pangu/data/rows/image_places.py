"""Where in a Parquet file each image of a row group lies, so that one image can be read without its group.

Images are stored as they are, because they do not compress again, so each is found in the bytes that reading the group takes.
"""

import struct
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from pangu.data.table.store import located, storage_errors
from pangu.errors import UserError

_TELLING = 64
"""So many first bytes of an image, behind its length, tell where it may begin."""


class PlacedGroups:
    """The row groups of a file, and where their images lie.

    file: an opened file of pyarrow; name: for sentences.
    """

    def __init__(self, file: Any, name: str) -> None:
        self._noting, self._name = _Noting(file), name
        self.parquet = pq.ParquetFile(pa.PythonFile(self._noting, "r"), pre_buffer=False)

    def starts(self, group: int) -> tuple[np.ndarray, np.ndarray]:
        """Where each image of the group begins and ends in the file, (N,) bytes.

        Raises:
            UserError: they are not stored as they are.
        """
        self._noting.longest = 0, b""
        images = self.parquet.read_row_group(group, columns=["image"], use_threads=False)["image"]
        first, stored = self._noting.longest
        starts, ends, at = np.empty(len(images), np.int64), np.empty(len(images), np.int64), 0
        for number, value in enumerate(images):
            image = value.as_py()
            at = stored.find(struct.pack("<I", len(image)) + image[:_TELLING], at) + 4
            if at < 4 or stored[at : at + len(image)] != image:
                raise UserError(
                    f"The images in {self._name} are not stored as they are, so they cannot be read from where they lie; set "
                    f"PANGU_CACHE to a folder with room for all of them."
                )
            starts[number], ends[number] = first + at, first + at + len(image)
            at += len(image)
        return starts, ends


@lru_cache(maxsize=4)
def spans_of(address: str) -> tuple[np.ndarray, np.ndarray]:
    """Where each image of a file begins and ends in it, (N,) bytes; reads all of them once.

    Raises:
        UserError: as `PlacedGroups.starts`, or the store cannot be reached.
    """
    filesystem, [path] = located([address])
    with storage_errors(address), (filesystem or pyarrow.fs.LocalFileSystem()).open_input_file(path) as opened:
        source = PlacedGroups(opened, path)
        groups = [source.starts(group) for group in range(source.parquet.num_row_groups)]
    starts, ends = zip(*groups, strict=True) if groups else ((), ())
    nothing = np.empty(0, np.int64)
    return np.concatenate([nothing, *starts]), np.concatenate([nothing, *ends])


class _Noting:
    """A file for reading that keeps the longest stretch that was read at once, and where it began."""

    closed = False

    def __init__(self, file: Any) -> None:
        self._file, self.seek, self.tell, self.longest = file, file.seek, file.tell, (0, b"")

    def read(self, size: int = -1) -> bytes:
        start, data = self._file.tell(), self._file.read(size)
        if len(data) > len(self.longest[1]):
            self.longest = start, data
        return data
