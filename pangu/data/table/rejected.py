"""Rows that a version rejected, kept beside the table with their reason, so that other thresholds need nothing computed again."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pangu.data.table.schema import SCHEMA, with_nulls
from pangu.data.table.store import TableStore
from pangu.storage import Home

REASON = "reason"
REJECTED = SCHEMA.append(pa.field(REASON, pa.string()))


class HasKey(Protocol):
    @property
    def key(self) -> str: ...


def rejected_folder(home: Home, name: str, key: str) -> Path:
    """The rows that the transaction `key` rejected."""
    return home.dataset(name) / "rejected" / key


def rejected_folders(home: Home, name: str, kept: Sequence[HasKey]) -> Iterator[Path]:
    """The folders of all transactions but those of `kept`."""
    keys = {entry.key for entry in kept}
    root = home.dataset(name) / "rejected"
    yield from (folder for folder in sorted(root.glob("*")) if folder.name not in keys)


def write_rejected(folder: Path, stem: str, rows: pa.Table) -> None:
    """Write rows (schema `REJECTED`) of one piece."""
    TableStore(str(folder)).write_parquet(f"{stem}.parquet", with_nulls(rows).cast(REJECTED), compression="none")


def count_rejected(folder: Path) -> int:
    """How many rejected rows lie in the folder of a transaction."""
    return sum(pq.read_metadata(file).num_rows for file in folder.glob("*.parquet"))


def examples(folder: Path, count: int) -> dict[str, list[dict[str, Any]]]:
    """The first `count` rejected rows of each reason."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for file in sorted(folder.glob("*.parquet")):
        reasons = pq.read_table(file, columns=[REASON])[REASON].to_pylist()
        wanted: list[int] = []
        for at, reason in enumerate(reasons):
            if len(found[reason]) + sum(reasons[other] == reason for other in wanted) < count:
                wanted.append(at)
        if wanted:
            for row in pq.read_table(file).take(wanted).to_pylist():
                found[row[REASON]].append(row)
    return dict(found)
