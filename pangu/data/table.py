"""The dataset table: a Delta table, partitioned so that originals and upscaled rows never share a file.

Owns the row's schema, the one transaction that makes files visible, and reading a pinned version. Knows nothing of
where rows come from. Workers write files first (`write_part`), then one `commit` shows all of them or none.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, create_table_with_add_actions

from pangu.config import Frozen
from pangu.data.card import Split
from pangu.errors import UserError
from pangu.storage import Home

PARTITION = "upscaled"
SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # SHA-256 of the bytes that were downloaded
        ("image", pa.binary()),  # encoded: the downloaded bytes, or PNG where they had to be changed
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("caption_en", pa.string()),  # "" where the source has none
        ("caption_zh", pa.string()),
        ("source_url", pa.string()),
        ("license", pa.string()),
        ("original_width", pa.int32()),
        ("original_height", pa.int32()),
        ("upscaled", pa.bool_()),
        ("upscale_factor", pa.float32()),  # 1 for originals
        ("upscaler", pa.string()),  # "" for originals
        ("min_timestep", pa.int32()),  # the lowest t this image may train; 0 for originals
        ("bucket", pa.int32()),  # index of the resolution preset
        ("phash", pa.string()),  # 64-bit perceptual hash, hex
        ("split", pa.string()),
        ("style", pa.string()),  # null: none; tables from before there were styles lack the column, and read as null
    ]
)
STORED = pa.schema([field for field in SCHEMA if field.name != PARTITION])
ROW_GROUP_BYTES = 32 << 20
_NO_STATISTICS = ("image", "phash", "key")


class DataFile(Frozen):
    """A Parquet file that was written into the table's folder and waits for its commit."""

    path: str
    size: int
    rows: int
    upscaled: bool
    statistics: str


def write_part(table_folder: Path, stem: str, rows: pa.Table, upscaled: bool) -> DataFile:
    """Write rows (schema `SCHEMA`) of one partition; nobody sees them before `commit`.

    Args:
        stem: Unique to this transaction and this part of its work; a part that is redone replaces its own leftovers.
    """
    path = f"{PARTITION}={str(upscaled).lower()}/{stem}.parquet"
    final = table_folder / path
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    stored = rows.select(STORED.names).cast(STORED)
    scalars = [name for name in STORED.names if name not in _NO_STATISTICS]
    pq.write_table(
        stored,
        temporary,
        row_group_size=_rows_per_group(stored),
        # Encoded images do not compress again; trying costs time at every read.
        compression={name: "none" if name == "image" else "zstd" for name in STORED.names},
        use_dictionary=[name for name in scalars if name not in ("caption_en", "caption_zh", "source_url")],
        write_statistics=scalars,
    )
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(final)
    return DataFile(
        path=path, size=final.stat().st_size, rows=rows.num_rows, upscaled=upscaled, statistics=_statistics(stored)
    )


def _rows_per_group(stored: pa.Table) -> int:
    """Groups of about 32 MiB: large enough to read in one go, small enough to shuffle by."""
    per_row = max(1, stored.nbytes // max(1, stored.num_rows))
    return min(4096, max(16, ROW_GROUP_BYTES // per_row))


def _statistics(stored: pa.Table) -> str:
    """Delta's per-file statistics: row count, and bounds of the columns that queries select by."""
    bounds = {name: pc.min_max(stored[name]).as_py() for name in ("width", "height", "bucket", "min_timestep", "split")}
    return json.dumps(
        {
            "numRecords": stored.num_rows,
            "minValues": {name: bound["min"] for name, bound in bounds.items()},
            "maxValues": {name: bound["max"] for name, bound in bounds.items()},
            "nullCount": {name: stored[name].null_count for name in bounds},
        }
    )


def commit(home: Home, name: str, key: str, files: list[DataFile], facts: dict[str, Any]) -> int:
    """Make `files` the whole content of the dataset's next version; returns that version.

    One transaction: killed at any instant, readers see the old version or the new one. The same `key` never commits
    twice. The new version replaces the old one's rows, because a dataset is what its card's source lists now: appending
    would double every row that both lists hold. The old version stays readable by its number.
    """
    if is_committed(home, name, key):
        return version_of(home, name, key)
    folder = home.table(name)
    now = int(time.time() * 1000)
    actions: list[Any] = [
        AddAction(file.path, file.size, {PARTITION: str(file.upscaled).lower()}, now, True, file.statistics)
        for file in files
    ]
    properties = CommitProperties(
        custom_metadata={"pangu.key": key, **{f"pangu.{fact}": str(value) for fact, value in facts.items()}},
        app_transactions=[Transaction(key, 1)],
    )
    table = _open(home, name)
    if table is None:
        create_table_with_add_actions(
            str(folder), _delta_schema(), actions, mode="error", partition_by=[PARTITION], commit_properties=properties
        )
    else:
        table.create_write_transaction(actions, "overwrite", _delta_schema(), [PARTITION], commit_properties=properties)
    return version_of(home, name, key)


def is_committed(home: Home, name: str, key: str) -> bool:
    """Whether the transaction `key` has taken place."""
    table = _open(home, name)
    return table is not None and table.transaction_version(key) is not None


def version_of(home: Home, name: str, key: str) -> int:
    """The version that the transaction `key` made.

    Raises:
        UserError: the log no longer tells.
    """
    for entry in _require(home, name).history():
        if entry.get("pangu.key") == key:
            return int(entry["version"])
    raise UserError(
        f"The log of dataset '{name}' no longer tells which version transaction {key} made; keep its log longer."
    )


def latest_version(home: Home, name: str) -> int:
    """The newest version of a dataset.

    Raises:
        UserError: it has none yet.
    """
    return _require(home, name).version()


def data_files(home: Home, name: str, version: int, upscaled: bool | None = None) -> list[str]:
    """The Parquet files of a pinned version, of one partition or of both; absolute paths, sorted."""
    table = _require(home, name, version)
    wanted = None if upscaled is None else [(PARTITION, "=", str(upscaled).lower())]
    return sorted(table.file_uris(file_pruning_predicate=wanted))


def read_rows(
    home: Home,
    name: str,
    version: int,
    columns: list[str] | None = None,
    upscaled: bool | None = None,
    split: Split | None = None,
) -> pa.Table:
    """Rows of a pinned version, sorted by key within each partition; opens the files of the asked partition only.

    Raises:
        UserError: no such dataset, version or column.
    """
    names = columns or SCHEMA.names
    if unknown := [column for column in names if column not in SCHEMA.names]:
        raise UserError(f"Dataset rows have no column '{unknown[0]}'; they have {', '.join(SCHEMA.names)}.")
    parts = []
    for partition in (False, True) if upscaled is None else (upscaled,):
        if files := data_files(home, name, version, partition):
            parts.append(_read_partition(files, partition, names, split))
    schema = pa.schema([SCHEMA.field(column) for column in names])
    return pa.concat_tables(parts) if parts else schema.empty_table()


def _read_partition(files: list[str], upscaled: bool, names: list[str], split: Split | None) -> pa.Table:
    physical = [column for column in names if column != PARTITION]
    needed = list(dict.fromkeys([*physical, "key"]))
    chosen = None if split is None else pc.field("split") == split
    rows = pyarrow.dataset.dataset(files, schema=STORED).to_table(columns=needed, filter=chosen)
    rows = rows.take(pc.sort_indices(rows, [("key", "ascending")]))
    rows = rows.append_column(SCHEMA.field(PARTITION), pa.array([upscaled] * rows.num_rows, pa.bool_()))
    return rows.select(names)


def _open(home: Home, name: str, version: int | None = None) -> DeltaTable | None:
    try:
        return DeltaTable(str(home.table(name)), version=version)
    except TableNotFoundError:
        return None


def _require(home: Home, name: str, version: int | None = None) -> DeltaTable:
    try:
        table = _open(home, name, version)
    except DeltaError as error:
        table = _open(home, name)
        have = f"its versions go from 0 to {table.version()}" if table else "it has none"
        raise UserError(f"Dataset '{name}' has no version {version} that can be read; {have}.") from error
    if table is None:
        raise UserError(f"There is no dataset '{name}' under {home.root}; make it with `pangu prepare`.")
    return table


def _delta_schema():  # type: ignore[no-untyped-def]
    from deltalake import Schema

    return Schema.from_arrow(SCHEMA)
