"""The files of a folder or of tar archives: a row of each that is no caption of another, in a file on the disk.

What belongs together is decided by `pangu.data.ingest.file_names`. Files are listed once and read once, in the same order.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pangu.data.ingest.file_names import suffix_of
from pangu.data.table.scratch_folder import ScratchFolder
from pangu.data.table.sorting import Parts

TEXT = "txt"
"""Name of the caption in NAME.txt beside an image."""
Image = tuple[bytes | None, str]
"""Bytes, or None and why there are none."""
ROWS_AT_ONCE = 4096
"""As many rows have their captions in memory."""
_LISTED = pa.schema([("name", pa.binary()), ("reason", pa.string()), ("fields", pa.string())])


class FileRow(NamedTuple):
    """A file: its name in the folder or archive, why it is no image ("" if it is one), and its fields, `url` among them."""

    name: str
    reason: str
    fields: Mapping[str, Any]


@dataclass
class ImageFiles:
    """The rows of a source of files, some of them in memory at a time.

    read: takes rows, in order, and gives the bytes of each. stamp: changes whenever the images may have. count, images: how many
    rows there are, and how many of them are images. fields: the names of all fields.
    """

    read_rows: Callable[[Iterator[FileRow]], Iterator[Image]]
    stamp: str = ""
    count: int = 0
    images: int = 0
    fields: set[str] = field(default_factory=set)
    _place: ScratchFolder = field(default_factory=lambda: ScratchFolder("pangu-files-"))

    @cached_property
    def folder(self) -> Path:
        """Where files about the files may be written; gone with this object."""
        return self._place.path

    @cached_property
    def _file(self) -> Parts:
        return Parts(self.folder / "listed", _LISTED, 1)

    def write(self, rows: Iterable[FileRow]) -> None:
        """Write down all rows."""
        rows = iter(rows)
        while some := list(islice(rows, ROWS_AT_ONCE)):
            self.fields.update(*(row.fields for row in some))
            self.images += sum(not row.reason for row in some)
            names = pa.array([os.fsencode(row.name) for row in some], pa.binary())
            texts = [json.dumps(row.fields) for row in some]
            table = pa.table([names, [row.reason for row in some], texts], schema=_LISTED)
            self._file.add(table, np.zeros(len(some), np.int64))
            self.count += len(some)
        self._file.close()

    def rows(self) -> Iterator[FileRow]:
        """Every row, in order."""
        for table in self._file.batches(0):
            for one in table.to_pylist():
                yield FileRow(os.fsdecode(one["name"]), one["reason"], json.loads(one["fields"]))

    def reasons(self) -> Iterator[tuple[int, str]]:
        """The rows that are no images, by their number, and why."""
        return ((number, row.reason) for number, row in enumerate(self.rows()) if row.reason)

    def read(self) -> Iterator[Image]:
        """The bytes of all rows, in order."""
        return self.read_rows(self.rows())


class Stamp:
    """Hashes what changes whenever images may have, as the text of one list, which is never whole in memory."""

    def __init__(self) -> None:
        self._hash, self._between = hashlib.sha256(b"(["), ""

    def add(self, fact: tuple[str, Any, Any]) -> None:
        self._hash.update(f"{self._between}{fact!r}".encode())
        self._between = ", "

    def digest(self) -> str:
        """16 hexadecimal digits."""
        whole = self._hash.copy()
        whole.update(b"],)")
        return whole.hexdigest()[:16]


def texts_of(files: Mapping[str, bytes]) -> dict[str, Any]:
    """What the .txt and the .json beside an image say."""
    found: dict[str, Any] = {}
    for name, data in files.items():
        found |= {TEXT: data.decode("utf-8", errors="replace")} if suffix_of(name) == ".txt" else _facts(data)
    return found


def _facts(data: bytes) -> dict[str, Any]:
    try:
        facts = json.loads(data, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def too_many_bytes(max_bytes: int) -> str:
    return f"too_many_bytes: more than {max_bytes}"
