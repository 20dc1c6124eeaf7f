"""DuckDB for what has to look at all rows at once: bounded in memory, what does not fit lies on the disk meanwhile."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pangu.data.table import folder_links
from pangu.data.table.sorting import FEW_ROWS, Parts, part_count
from pangu.errors import UserError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MEMORY_MB = 160
"""Of DuckDB's own buffers for up to `FEW_ROWS`; sorting and joining more takes, as external sorts do, the square root of what
more there is. Measured: 160 MB sort, group and join 10 million rows; 30 million wide ones, not."""
PART_MB = 64
"""Where one part of the rows after the other is looked at, and of one that a single value fills nothing is sorted or gathered."""
ROWS_AT_ONCE = 16_384


def memory_mb(rows: int, few: int = MEMORY_MB) -> int:
    """Of a connection that looks at so many rows; `few`: for up to `FEW_ROWS`."""
    return round(few * max(1.0, rows / FEW_ROWS) ** 0.5)


@contextmanager
def engine(scratch: Path, rows: int = 0, few: int = MEMORY_MB) -> Iterator["DuckDBPyConnection"]:
    """A connection whose tables lie in a file in the folder `scratch`, of which it holds up to `memory_mb` in memory.

    Of tables in memory DuckDB writes aside what does not fit, and takes several times as much before it succeeds.

    rows: how many there are, at most. few: MB for up to `FEW_ROWS`.

    Raises:
        UserError: the disk of `scratch` is full.
    """
    import duckdb

    spilled = folder_links.for_fsspec(scratch) / "spilled"
    shutil.rmtree(spilled, ignore_errors=True)  # by a run that was killed
    spilled.mkdir(parents=True)
    # It takes a backslash in a folder's name for a slash.
    file = ":memory:" if "\\" in str(spilled.resolve()) else str(spilled / "tables.duckdb")
    limit = f"{memory_mb(rows, few)}MB"
    # One thread: each further one wants buffers of its own.
    settings: dict[str, Any] = {"memory_limit": limit, "temp_directory": str(spilled), "threads": 1}
    try:
        with duckdb.connect(config=settings) as connection:
            # What a run that was killed leaves is made again, so nobody needs a log of what was written.
            connection.execute(f"attach '{file}' as tables (recovery_mode no_wal_writes); use tables")
            yield connection
    except duckdb.Error as error:
        if any(sign in str(error) for sign in ("No space left", "max_temp_directory_size")):
            raise UserError(f"The disk of {scratch} is full; make room and run the same command again.") from error
        raise
    finally:
        shutil.rmtree(spilled, ignore_errors=True)


def stream(connection: "DuckDBPyConnection", asked: str, rows: int = ROWS_AT_ONCE) -> pa.RecordBatchReader:
    """What a query (SQL) finds, so many rows at once; the connection is free for other questions while it is read."""
    return connection.cursor().execute("use tables").sql(asked).to_arrow_reader(rows)


def plain(file: Path) -> Path:
    """A file as DuckDB can take it, which reads patterns in paths and ends text at a quote."""
    return folder_links.for_fsspec(file.parent) / file.name


def parquet(file: Path) -> str:
    """A Parquet file as a source in SQL, with the number of each row in it."""
    return f"read_parquet('{plain(file)}', file_row_number = true)"


def read_parquet(files: Sequence[Path]) -> str:
    """Parquet files of one schema, below each other, as a source in SQL."""
    names = ", ".join(f"'{plain(file)}'" for file in files)
    return f"read_parquet([{names}])"


def hashed_parts(connection: "DuckDBPyConnection", source: str, column: str, folder: Path, rows: int) -> Parts:
    """Rows of a query (SQL) in parts on the disk: those of one value in `column` lie in one part.

    folder: does not exist yet, or is empty. rows: how many there are, at most.
    """
    count = part_count(rows)
    asked = f"select *, (hash({column}) % {count})::bigint as part from ({source})"
    reader = connection.sql(asked).to_arrow_reader(ROWS_AT_ONCE)
    parts = Parts(folder, pa.schema(list(reader.schema)[:-1]), count)
    for batch in reader:
        parts.add(pa.table(batch).drop_columns(["part"]), batch["part"].to_numpy())
    parts.close()
    return parts


def load(connection: "DuckDBPyConnection", name: str, schema: pa.Schema, batches: Iterable[pa.Table]) -> None:
    """Make a table of what comes in batches, in the place of one of that name, a few of them at a time in memory; the connection
    gets what so many rows take."""
    alike = (table if table.schema.equals(schema) else table.select(schema.names).cast(schema) for table in batches)
    chunks = (batch for table in alike for batch in table.to_batches())
    reader = pa.RecordBatchReader.from_batches(schema, chunks)
    connection.register("incoming", reader)
    connection.execute(f"create or replace table {name} as select * from incoming")
    connection.unregister("incoming")
    [(rows,)] = connection.execute(f"select count(*) from {name}").fetchall()
    if rows > FEW_ROWS:
        connection.execute(f"set memory_limit = '{memory_mb(rows)}MB'")
