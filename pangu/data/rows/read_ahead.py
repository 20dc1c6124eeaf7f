"""Byte ranges of files, most of them in object storage, fetched before they are asked for and held in bounded memory."""

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow.fs

from pangu.bounded_cache import BoundedCache
from pangu.data.table.store import located, storage_errors

HELD_BYTES = 256 << 20
FETCHES = 16
"""Requests at once: one waits for the store, not for a core."""
OPEN_FILES = 256


class ByteRange(NamedTuple):
    """Bytes [start, end) of the file with that number."""

    file: int
    start: int
    end: int


class ReadAhead:
    """Ranges of `files`, addresses as `data_files` gives them: each is fetched once for every time that it is expected.

    At most `held_bytes` wait in memory: what is expected beyond that is fetched when it is asked for.
    """

    def __init__(self, files: Sequence[str], held_bytes: int = HELD_BYTES) -> None:
        filesystem, self._paths = located(list(files))
        self._filesystem = filesystem or pyarrow.fs.LocalFileSystem()
        self._addresses, self._room = list(files), held_bytes
        self._coming: dict[ByteRange, Future[bytes]] = {}
        self._opened: BoundedCache[int, Any] = BoundedCache(OPEN_FILES)
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(FETCHES, thread_name_prefix="fetch")

    def expect(self, ranges: Iterable[ByteRange]) -> None:
        """Begin to fetch what will be asked for."""
        for one in ranges:
            with self._lock:
                if one in self._coming or one.end - one.start > self._room:
                    continue
                self._room -= one.end - one.start
                self._coming[one] = self._pool.submit(self._fetch, one)

    def read(self, one: ByteRange) -> bytes:
        """The bytes of a range, which are no longer held.

        Raises:
            UserError: the store cannot be reached.
        """
        with self._lock:
            coming = self._coming.pop(one, None)
        try:
            return self._fetch(one) if coming is None else coming.result()
        finally:
            if coming is not None:
                with self._lock:
                    self._room += one.end - one.start

    def _fetch(self, one: ByteRange) -> bytes:
        with storage_errors(self._addresses[one.file]):
            with self._lock:
                file = self._opened.get(one.file)
            if file is None:
                file = self._filesystem.open_input_file(self._paths[one.file])
                with self._lock:
                    self._opened.keep(one.file, file)
            return file.read_at(one.end - one.start, one.start)
