"""Rows that do not fit into memory: divided among files on the disk, and sorted that way, one file at a time in memory.

As large as a part is, so much memory any number of rows takes: parts are of about `PART_ROWS`, and larger only beyond
`FEW_ROWS`, where as many files as may be open are not enough.
"""

import errno
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import cache
from itertools import chain, groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from pangu.errors import UserError

PART_ROWS = 1 << 15
"""Rows of a part, for up to `FEW_ROWS`."""
FEW_ROWS = 10_000_000
MOST_PARTS = 512
"""As many files are open at once."""
_SAMPLED = 1 << 14
"""Keys that are kept, from which parts of about one size are cut."""
_ROWS_AT_ONCE = 1 << 14
_ROWS_TO_DIVIDE = 1 << 16


def part_count(rows: int) -> int:
    """Among how many parts so many rows are divided."""
    own = PART_ROWS * max(1.0, rows / FEW_ROWS) ** 0.5
    return min(MOST_PARTS, max(1, math.ceil(rows / own)))


def full_disk(folder: Path, error: OSError) -> Exception:
    """What is raised where a folder cannot be written to."""
    if error.errno != errno.ENOSPC:
        return error
    return UserError(f"The disk of {folder} is full; make room and run the same command again.")


class Parts:
    """Rows of one schema in files, one for each part, in the order in which they came."""

    def __init__(self, folder: Path, schema: pa.Schema, count: int) -> None:
        """folder: is made, and holds nothing else."""
        folder.mkdir(parents=True, exist_ok=True)
        self.schema, self._files = schema, [folder / f"{number:04d}.arrows" for number in range(count)]
        self._open = ExitStack()
        sinks = (self._open.enter_context(pa.OSFile(str(file), "wb")) for file in self._files)
        self._writers = [self._open.enter_context(pa.ipc.new_stream(sink, schema)) for sink in sinks]
        self._waiting = list[tuple[pa.Table, np.ndarray]]()

    def __len__(self) -> int:
        return len(self._files)

    def add(self, rows: pa.Table, part: np.ndarray) -> None:
        """part: (N,) the number of each row's part. Some rows wait in memory: a few at a time for each part would cost more to
        write and to read than to sort."""
        self._waiting.append((rows, part))
        if len(self) == 1 or sum(len(part) for _, part in self._waiting) >= _ROWS_TO_DIVIDE:
            self._write()

    def _write(self) -> None:
        if not self._waiting:
            return
        rows = pa.concat_tables([rows for rows, _ in self._waiting])
        part = np.concatenate([part for _, part in self._waiting])
        self._waiting.clear()
        order = np.argsort(part, kind="stable")
        taken = rows.take(pa.array(order)) if len(self) > 1 else rows
        edges = np.searchsorted(part[order], np.arange(len(self) + 1))
        try:
            for number in np.flatnonzero(np.diff(edges)).tolist():
                first, last = edges[number : number + 2].tolist()
                self._writers[number].write_table(taken.slice(first, last - first))
        except OSError as error:
            raise full_disk(self._files[0].parent, error) from error

    def close(self) -> None:
        """No further rows come."""
        self._write()
        self._open.close()

    def batches(self, number: int) -> Iterator[pa.Table]:
        """The rows of a part, some at a time."""
        with pa.OSFile(str(self._files[number])) as source, pa.ipc.open_stream(source) as reader:
            waiting, there = list[pa.RecordBatch](), 0
            for batch in reader:
                waiting.append(batch)
                if (there := there + batch.num_rows) >= _ROWS_AT_ONCE:
                    yield pa.Table.from_batches(waiting).combine_chunks()
                    waiting, there = [], 0
            if waiting:
                yield pa.Table.from_batches(waiting).combine_chunks()

    def read(self, number: int) -> pa.Table:
        """All rows of a part, whose file is deleted."""
        found = pa.concat_tables([self.schema.empty_table(), *self.batches(number)])
        self.discard(number)
        return found

    def discard(self, number: int) -> None:
        """Delete the file of a part."""
        self._files[number].unlink()


class _Sample:
    """Some keys of all that come, evenly spread."""

    def __init__(self) -> None:
        self._keys, self._stride, self._next = list[Any](), 1, 0

    def seeing(self, key: str, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The tables, of whose keys some are kept on the way."""
        for table in tables:
            self._see(table[key])
            yield table

    def _see(self, keys: pa.ChunkedArray) -> None:
        while self._next < len(keys):
            self._keys.append(keys[self._next].as_py())
            self._next += self._stride
            if len(self._keys) >= _SAMPLED:
                self._keys, self._stride = self._keys[::2], 2 * self._stride
        self._next -= len(keys)

    def cuts(self, parts: int) -> "_Cuts":
        """Where so many parts end, or fewer."""
        ordered = sorted(self._keys)
        ends = [ordered[place * len(ordered) // parts] for place in range(1, parts)]
        return _Cuts([(key, len(list(same)) > 1) for key, same in groupby(ends)])


class _Cuts:
    """Ranges of keys, and between them single keys that fill a part each: what lies in such a part need not be sorted, and so
    not be in memory either."""

    def __init__(self, edges: list[tuple[Any, bool]]) -> None:
        """edges: ascending keys at which a part begins, and whether the rest of it, behind this key, is another part."""
        self._edges, self._filling = (_array(key for key, fills in edges if fills in kind) for kind in ((0, 1), (1,)))
        self.single = frozenset(self.part_of(self._filling).tolist())
        """The parts of one key."""

    def part_of(self, keys: np.ndarray) -> np.ndarray:
        """(N,) the number of each key's part."""
        return np.searchsorted(self._edges, keys, "right") + np.searchsorted(self._filling, keys, "left")


def _array(values: Iterable[Any]) -> np.ndarray:
    """Values as Python's own, which compare as Arrow sorts them."""
    there = list(values)
    found = np.empty(len(there), object)
    found[:] = there
    return found


def sorted_by(key: str, tables: Iterable[pa.Table], scratch: Path) -> Iterator[pa.Table]:
    """Rows in any order by ascending `key` (a column of texts, bytes or whole numbers without nulls), some at a time; of equal
    keys the earlier row comes first.

    tables: of one schema. scratch: a folder whose disk has room for the rows twice.
    """
    tables, waiting, there = iter(tables), list[pa.Table](), 0
    for table in tables:
        waiting.append(table)
        if (there := there + table.num_rows) > PART_ROWS:
            break
    if there <= PART_ROWS:
        if waiting:
            yield from _in_order(pa.concat_tables(waiting), key)
        return
    with TemporaryDirectory(dir=scratch, prefix=".sorting-") as folder:
        sample = _Sample()
        cuts = cache(sample.cuts)
        parts = divided(
            sample.seeing(key, chain(waiting, tables)),
            lambda table, count: cuts(count).part_of(_array(table[key].to_pylist())),
            Path(folder),
        )
        waiting.clear()
        single = cuts(len(parts)).single
        for number in range(len(parts)):
            if number in single:
                yield from chain.from_iterable(map(_slices, parts.batches(number)))
                parts.discard(number)
            else:
                yield from _in_order(parts.read(number), key)


def divided(
    tables: Iterable[pa.Table],
    part_of: Callable[[pa.Table, int], np.ndarray],
    scratch: Path,
) -> Parts:
    """Rows of one schema in as many parts as so many rows want.

    part_of: takes some rows and the number of parts, and says in which each row lies; asked when all rows have come.
    """
    tables = iter(tables)
    first = next(tables)
    whole, rows = Parts(scratch / "whole", first.schema, 1), 0
    for table in chain([first], tables):
        whole.add(table, np.zeros(table.num_rows, np.int64))
        rows += table.num_rows
    whole.close()
    count = part_count(rows)
    parts = Parts(scratch / "parts", first.schema, count)
    for table in whole.batches(0):
        parts.add(table, part_of(table, count))
    parts.close()
    whole.discard(0)
    return parts


def _in_order(rows: pa.Table, key: str) -> Iterator[pa.Table]:
    yield from _slices(rows.sort_by(key))


def _slices(rows: pa.Table) -> Iterator[pa.Table]:
    yield from (rows.slice(start, _ROWS_AT_ONCE) for start in range(0, rows.num_rows, _ROWS_AT_ONCE))
