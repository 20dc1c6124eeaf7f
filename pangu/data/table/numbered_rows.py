"""Rows of several files under one running number, so that a page of them is read without those before it."""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pangu.data.table.rows_file import RowsFile
from pangu.data.table.schema import SCHEMA
from pangu.errors import UserError

OPEN_FILES = 2
"""Each keeps the images of one row group in memory."""
BATCH_ROWS = 65_536


class NumberedRows:
    """Reads rows by their place, counted from 0 through all files in their order. May be asked from several threads.

    Args:
        files: as `pangu.data.table.delta.data_files` names them, or files of rejected rows.
        table: as of `RowsFile`.

    Raises:
        UserError: a file is gone.
    """

    def __init__(self, files: Sequence[str], table: str | None = None) -> None:
        self._files, self._table = list(files), table
        self._opened: OrderedDict[int, RowsFile] = OrderedDict()
        self._lock = Lock()
        self._groups: list[tuple[int, int]] = []
        starts = [0]
        for number in range(len(self._files)):
            with self._open(number) as source:
                for group in range(source.num_row_groups):
                    self._groups.append((number, group))
                    starts.append(starts[-1] + source.metadata.row_group(group).num_rows)
        self._starts = np.asarray(starts)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, places: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """The rows at these places, in this order; null in columns that a file is too old for.

        Raises:
            UserError: there is no such place, or an image file is gone.
        """
        wanted = np.asarray(places, np.int64)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise UserError(f"There is no row {int(wanted.max())}; there are {len(self)}, counted from 0.")
        at = np.searchsorted(self._starts, wanted, "right") - 1
        parts, order = [], []
        with self._lock:
            for group in np.unique(at):
                mine = np.flatnonzero(at == group)
                parts.append(self._take(int(group), wanted[mine] - self._starts[group], columns))
                order.append(mine)
        if not parts:
            return pa.table({name: pa.array([], _type(name)) for name in columns})
        return pa.concat_tables(parts).take(pa.array(np.argsort(np.concatenate(order))))

    def each(self, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """(place of its first row, rows) of one batch after the other; only of files that have all the columns."""
        start = 0
        for number in range(len(self._files)):
            with self._open(number) as source:
                if set(columns) <= set(source.schema_arrow.names):
                    at = start
                    for rows in source.iter_batches(BATCH_ROWS, columns):
                        yield at, rows
                        at += rows.num_rows
                start += source.metadata.num_rows

    def places_where(self, column: str, value: str, first: int, count: int) -> tuple[list[int], int]:
        """(places of `count` rows with that value behind the first `first` of them, how many have it)."""
        found, total = list[int](), 0
        for start, rows in self.each([column]):
            there = np.flatnonzero(pc.fill_null(pc.equal(rows[column], value), False).to_numpy())
            chosen = there[max(0, first - total) : max(0, first + count - total)]
            found += (start + chosen).tolist()
            total += len(there)
        return found, total

    def counts(self, column: str) -> Counter[str]:
        """Rows by the value of a column of text."""
        found = Counter[str]()
        for _, rows in self.each([column]):
            counted = rows.group_by(column).aggregate([([], "count_all")]).to_pylist()
            found.update({one[column]: one["count_all"] for one in counted})
        return found

    def measured(self, columns: Sequence[str]) -> set[str]:
        """Those of the columns in which a row has a value; files tell it by their statistics."""
        found = set[str]()
        for number in range(len(self._files)):
            with self._open(number) as source:
                names = source.metadata.schema.names
                for group in range(source.num_row_groups):
                    of_group = source.metadata.row_group(group)
                    for name in set(columns) - found:
                        facts = of_group.column(names.index(name)).statistics if name in names else None
                        if facts is not None and facts.null_count < of_group.num_rows:
                            found.add(name)
        return found

    def _take(self, place: int, rows: np.ndarray, columns: Sequence[str]) -> pa.Table:
        number, group = self._groups[place]
        source = self._kept_open(number)
        there = [name for name in columns if name in source.schema_arrow.names]
        found = source.take(group, rows.tolist(), there)
        for name in columns:
            if name not in there:
                found = found.append_column(name, pa.nulls(found.num_rows, _type(name)))
        return found.select(list(columns))

    def _open(self, number: int) -> RowsFile:
        try:
            return RowsFile(self._files[number], self._table)
        except FileNotFoundError as error:
            raise UserError(
                f"The rows in {self._files[number]} are gone; run `pangu prepare` again, which makes them."
            ) from error

    def _kept_open(self, number: int) -> RowsFile:
        if number not in self._opened:
            self._opened[number] = self._open(number)
            while len(self._opened) > OPEN_FILES:
                self._opened.popitem(last=False)[1].__exit__()
        self._opened.move_to_end(number)
        return self._opened[number]


def _type(name: str) -> pa.DataType:
    return SCHEMA.field(name).type if name in SCHEMA.names else pa.string()
