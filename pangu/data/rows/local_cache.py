"""Columns of fixed width in files of this machine, read by row index through the page cache: rows need not fit into memory.

Made once from the files that are the truth, by whoever comes first; may be deleted at any time.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from filelock import FileLock

from pangu.data.table.sorting import sorted_by
from pangu.errors import UserError

_ROWS_AT_ONCE = 1 << 16


def cache_folder(encoded: Path) -> Path:
    """Where this machine keeps what it made of an encoded dataset: in `$PANGU_CACHE`, or beside it."""
    root = os.environ.get("PANGU_CACHE")
    return (Path(root) if root else encoded.parents[1] / "mapped") / encoded.name


def made_once(folder: Path, make: Callable[[Path], None], needed_bytes: int) -> Path:
    """`folder`, filled by `make(temporary)` unless it is there. Others wait meanwhile; killed, it leaves nothing that counts.

    Raises:
        UserError: its file system has not `needed_bytes` left.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not folder.is_dir():
            temporary = _unfinished(folder)
            shutil.rmtree(temporary, ignore_errors=True)
            _check_room(folder.parent, needed_bytes)
            temporary.mkdir()
            make(temporary)
            for path in temporary.iterdir():
                _flush(path)
            temporary.rename(folder)
    return folder


def has_room(folder: Path, needed_bytes: int) -> bool:
    """Whether `folder` is there, is being made, or has room to be made."""
    if folder.is_dir() or _unfinished(folder).is_dir():
        return True
    folder.parent.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(folder.parent).free >= needed_bytes


def _unfinished(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.tmp")


def _check_room(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise UserError(
            f"Training rows need {needed_bytes / 1e9:.1f} GB at {folder}, which has {free / 1e9:.1f} GB left; "
            f"set PANGU_CACHE to a folder with more room."
        )


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


class Column:
    """A .npy file of known shape that is written row after row."""

    def __init__(self, path: Path, rows: int, shape: Sequence[int], dtype: type[np.generic] = np.float16) -> None:
        self._file: BinaryIO = path.open("wb")
        self._path, self._left = path, rows * int(np.prod(shape)) * np.dtype(dtype).itemsize
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (rows, *shape)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def extend(self, values: Iterable[bytes]) -> None:
        """Append values, each the bytes of one row or a part of it."""
        for value in values:
            self._left -= self._file.write(value)

    def close(self) -> None:
        self._file.close()
        assert self._left == 0, f"{self._path} lacks {self._left} bytes"


def mapped(path: Path) -> np.ndarray:
    """The array of a .npy file, read when it is touched."""
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def write_rows(folder: Path, tables: Iterable[pa.Table]) -> None:
    """Rows in any order as files by ascending `key`, sorted on the disk: a .npy file for each column of numbers, and `rows.arrow`
    for the others."""
    tables, count = iter(tables), 0
    first = next(tables)
    numbers = [field.name for field in first.schema if pa.types.is_integer(field.type)]
    texts = pa.schema([field for field in first.schema if field.name not in numbers])

    def counted() -> Iterator[pa.Table]:
        nonlocal count
        for table in chain([first], tables):
            count += table.num_rows
            yield table.select(first.schema.names).cast(first.schema)

    ordered = sorted_by("key", counted(), folder)
    lowest = list(islice(ordered, 1))  # by now all have come, and been counted
    with ExitStack() as stack:
        columns = {name: Column(folder / f"{name}.npy", count, (), np.int64) for name in numbers}
        sink = stack.enter_context(pa.OSFile(str(folder / "rows.arrow"), "wb"))
        writer = stack.enter_context(pa.ipc.new_file(sink, texts))
        for table in chain(lowest, ordered):
            writer.write_table(table.select(texts.names))
            for name, column in columns.items():
                column.extend([table[name].to_numpy().astype(np.int64, copy=False).tobytes()])
        for column in columns.values():
            column.close()


def map_rows(folder: Path) -> tuple[pa.Table, dict[str, np.ndarray]]:
    """The texts and the numbers that `write_rows` wrote, read when they are touched."""
    with pa.memory_map(str(folder / "rows.arrow")) as source, pa.ipc.open_file(source) as reader:
        texts = reader.read_all()
    return texts, {path.stem: mapped(path) for path in folder.glob("*.npy") if np.load(path, mmap_mode="r").ndim == 1}


class Strings(Sequence[str]):
    """A string column as a sequence that makes a Python object of what is asked for only."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            first, last, step = index.indices(len(self))
            assert step == 1
            return Strings(self._column.slice(first, max(last - first, 0)))
        return self._column[range(len(self))[index]].as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _ROWS_AT_ONCE):
            yield from self._column.slice(start, _ROWS_AT_ONCE).to_pylist()
