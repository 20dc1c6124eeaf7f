"""Rows that a version rejected, kept beside the table with their reason; their images lie where those of the others do."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pangu.data.table.rows_file import RowsFile
from pangu.data.table.schema import STORED
from pangu.storage import Home

REASON = "reason"
REJECTED = STORED.append(pa.field(REASON, pa.string()))


class HasKey(Protocol):
    @property
    def key(self) -> str: ...


def rejected_folder(home: Home, name: str, key: str) -> Path:
    """The rows that the transaction `key` rejected."""
    return home.dataset(name) / "rejected" / key


def rejected_files(home: Home, name: str, key: str) -> list[str]:
    """The files of the rows that the transaction `key` rejected, in their order."""
    return [str(file) for file in sorted(rejected_folder(home, name, key).glob("*.parquet"))]


def rejected_folders(home: Home, name: str, kept: Sequence[HasKey]) -> Iterator[Path]:
    """The folders of all transactions but those of `kept`."""
    keys = {entry.key for entry in kept}
    root = home.dataset(name) / "rejected"
    yield from (folder for folder in sorted(root.glob("*")) if folder.name not in keys)


def works_folder(home: Home, name: str) -> Path:
    """Where all rows that a piece of work made lie, in a folder each, whatever versions keep of them."""
    return home.dataset(name) / "work"


def count_rejected(folder: Path) -> int:
    """How many rejected rows lie in the folder of a transaction."""
    return sum(pq.read_metadata(file).num_rows for file in folder.glob("*.parquet"))


def examples(folder: Path, table: str, count: int) -> dict[str, list[dict[str, Any]]]:
    """The first `count` rejected rows of each reason, with their images.

    table: the folder of the table, where images lie that the files themselves do not hold.
    """
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    seen = Counter[str]()
    for file in sorted(folder.glob("*.parquet")):
        with RowsFile(str(file), table) as source:
            for group in range(source.num_row_groups):
                reasons = source.read_row_group(group, [REASON])[REASON]
                wanted: list[int] = []
                for reason in reasons.unique().to_pylist():
                    places = pc.indices_nonzero(pc.equal(reasons, reason)).to_pylist()
                    wanted += places[: max(0, count - seen[reason])]
                    seen[reason] += len(places)
                for row in source.take(group, sorted(wanted)).to_pylist() if wanted else ():
                    found[row[REASON]].append(row)
    return dict(found)
