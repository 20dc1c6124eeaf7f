"""Where rows come from that are to be selected: shards just made, or an earlier version with what it rejected.

A piece is what is read, decided and written at a time.
"""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pangu.data.table.delta import data_files
from pangu.data.table.rejected import rejected_folder
from pangu.data.table.schema import PARTITION, SCHEMA, with_nulls
from pangu.data.table.store import unaddressed
from pangu.data.table.versions import VersionEntry
from pangu.errors import UserError
from pangu.storage import Home


@dataclass(frozen=True)
class Piece:
    """Files of rows; beside each, the partition that its path stands for, or None where a column says it."""

    files: tuple[tuple[str, bool | None], ...]

    def read(self, columns: list[str]) -> pa.Table:
        """The asked columns of all rows, in the types of `SCHEMA`; null where a file is older than a column.

        Raises:
            UserError: a vacuum, which another home may run, has deleted a file meanwhile.
        """
        try:
            parts = [self._read_file(file, upscaled, columns) for file, upscaled in self.files]
        except FileNotFoundError as error:
            raise UserError(
                f"A vacuum deleted rows while they were read ({error}); run the same command again."
            ) from error
        return with_nulls(pa.concat_tables(parts))

    def _read_file(self, file: str, upscaled: bool | None, columns: list[str]) -> pa.Table:
        with pq.ParquetFile(file) as source:
            found = source.read([name for name in columns if name in source.schema_arrow.names])
        arrays = []
        for name in columns:
            field = SCHEMA.field(name)
            if name in found.column_names:
                arrays.append(found[name].cast(field.type))
            elif name == PARTITION and upscaled is not None:
                arrays.append(pa.chunked_array([pa.array([upscaled] * found.num_rows, field.type)]))
            else:
                arrays.append(pa.chunked_array([pa.nulls(found.num_rows, field.type)]))
        return pa.table(arrays, schema=pa.schema([SCHEMA.field(name) for name in columns]))


def pieces_of_work(files: list[Path]) -> list[Piece]:
    """One piece per shard that was made."""
    return [Piece(((str(file), None),)) for file in files]


def pieces_of_version(home: Home, name: str, entry: VersionEntry) -> list[Piece]:
    """The rows of a version and those it rejected, grouped by the shard that they came from."""
    groups: dict[str, list[tuple[str, bool | None]]] = defaultdict(list)
    for upscaled in (False, True):
        for file in data_files(home, name, entry.version, upscaled):
            groups[_number(file)].append((file, upscaled))
    for rejected in sorted(rejected_folder(home, name, entry.key).glob("*.parquet")):
        groups[_number(rejected.name)].append((str(rejected), None))
    return [Piece(tuple(groups[number])) for number in sorted(groups)]


def _number(file: str) -> str:
    return unaddressed(file).rpartition(".")[0].rpartition("-")[2]
