"""DuckDB for what has to look at all rows at once: bounded in memory, what does not fit lies on the disk meanwhile."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pangu.data.table import folder_links
from pangu.errors import UserError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MEMORY = "512MB"


@contextmanager
def engine(scratch: Path) -> Iterator["DuckDBPyConnection"]:
    """A connection whose tables lie in memory, up to `MEMORY`, and beyond that in the folder `scratch`.

    Raises:
        UserError: the disk of `scratch` is full.
    """
    import duckdb

    spilled = folder_links.for_fsspec(scratch) / "spilled"
    shutil.rmtree(spilled, ignore_errors=True)  # by a run that was killed
    threads = min(4, len(os.sched_getaffinity(0)))  # each wants some 100 MB of them
    settings: dict[str, Any] = {"memory_limit": MEMORY, "temp_directory": str(spilled), "threads": threads}
    try:
        with duckdb.connect(config=settings) as connection:
            yield connection
    except duckdb.Error as error:
        if any(sign in str(error) for sign in ("No space left", "max_temp_directory_size")):
            raise UserError(f"The disk of {scratch} is full; make room and run the same command again.") from error
        raise


def plain(file: Path) -> Path:
    """A file as DuckDB can take it, which reads patterns in paths and ends text at a quote."""
    return folder_links.for_fsspec(file.parent) / file.name


def parquet(file: Path) -> str:
    """A Parquet file as a source in SQL, with the number of each row in it."""
    return f"read_parquet('{plain(file)}', file_row_number = true)"


def load(connection: "DuckDBPyConnection", name: str, schema: pa.Schema, batches: Iterable[pa.Table]) -> None:
    """Make a table of what comes in batches, a few of them at a time in memory."""
    chunks = (batch for table in batches for batch in table.select(schema.names).cast(schema).to_batches())
    reader = pa.RecordBatchReader.from_batches(schema, chunks)
    connection.register("incoming", reader)
    connection.execute(f"create table {name} as select * from incoming")
    connection.unregister("incoming")
